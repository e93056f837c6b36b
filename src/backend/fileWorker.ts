/** A thread behind `fileThreads.ts`. */
import { serve } from "../internal/threadSide.ts"
import { operations } from "./fileOperations.ts"

serve(operations)
