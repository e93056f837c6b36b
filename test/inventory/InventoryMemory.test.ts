import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import { suite } from "./suite.ts"

suite("InventoryMemory", InventoryMemory.layer)
