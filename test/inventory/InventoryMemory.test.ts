import * as InventoryMemory from "../../src/inventory/InventoryMemory.ts"
import { suite } from "../../src/testing/inventory/suite.ts"

suite("InventoryMemory", InventoryMemory.layer)
