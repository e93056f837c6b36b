/** The thread behind `SqliteThread`: opens the database, then runs one operation after another. */
import { workerData } from "node:worker_threads"
import { serve } from "../internal/threadSide.ts"

const { operations, path }: { readonly operations: string; readonly path: string } = workerData

serve(import(operations).then((module) => ({ ready: () => undefined, ...module.open(path) })))
