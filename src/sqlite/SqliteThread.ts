/**
 * One SQLite file on a thread of its own.
 *
 * A durable write waits for the disk; on the main thread it would stop every transfer of the process meanwhile. So
 * each database lives on a worker thread, and what is done to it is a set of named operations: plain functions of one
 * module, each of which the thread runs to its end before the next.
 */
import { Effect, Schema, type Scope } from "effect"
import * as Thread from "../internal/Thread.ts"

/**
 * SQLite refused. `Busy`: another process holds the file, asking again is right. `Full`: the disk is. `Corrupt`: the
 * file is no sound database. `Failed`: anything else, and the thread's own end: whether it was done is then not known.
 */
export class SqliteError extends Schema.TaggedError<SqliteError>()("SqliteError", {
  path: Schema.String,
  operation: Schema.String,
  reason: Schema.Literals(["Busy", "Full", "Corrupt", "Failed"]),
  detail: Schema.String
}) {
  override get message(): string {
    return `${this.path}: ${this.detail}`
  }
}

/** What an operations module exports as `open`: a connection, bound to the functions that use it. */
export type Open<Operations> = (path: string) => Operations

/** Operations as the thread sees them. Arguments and results cross by structured clone. */
export type Operations<Self> = { readonly [Name in keyof Self]: (...args: Array<never>) => unknown } & {
  readonly close: () => void
}

export interface SqliteThread<Ops> {
  /** Runs one operation on the thread. Interrupting it does not undo it: the answer is then unknown. */
  readonly call: <Name extends keyof Ops & string>(
    name: Name,
    ...args: Ops[Name] extends (...args: infer Args) => unknown ? Args : never
  ) => Effect.Effect<Ops[Name] extends (...args: Array<never>) => infer Result ? Result : never, SqliteError>
}

/**
 * Opens a database by its operations module. Closing the scope finishes what was asked, closes the database and ends
 * the thread. When the thread dies, another one opens the database anew.
 */
export const make = <Ops extends Operations<Ops>>(options: {
  /** The file; its folder must exist. */
  readonly path: string
  /** The module that exports `open`. */
  readonly operations: URL
}): Effect.Effect<SqliteThread<Ops>, SqliteError, Scope.Scope> =>
  Effect.gen(function*() {
    const thread = yield* Thread.start({
      what: "database",
      name: `the thread of ${options.path}`,
      module: new URL(`./sqliteWorker${extension}`, import.meta.url),
      data: { path: options.path, operations: options.operations.href },
      ended: "the database is closed"
    })
    const ask = (operation: string, args: ReadonlyArray<unknown>): Effect.Effect<unknown, SqliteError> =>
      Effect.mapError(
        thread(operation, args),
        ({ code, detail }) => new SqliteError({ path: options.path, operation, reason: reasonOf(code), detail })
      )
    yield* Effect.addFinalizer(() => Effect.ignore(ask("close", [])))

    const sqlite: SqliteThread<Ops> = {
      // The thread runs the very function that `Ops` describes; structured clone keeps its result's shape.
      call: (name, ...args) => ask(name, args) as Effect.Effect<never, SqliteError>
    }
    // The first operation waits until the file is open and its schema stands; a failure there is this layer's.
    yield* ask("ready", [])
    return sqlite
  })

const extension = import.meta.filename.endsWith(".ts") ? ".ts" : ".js"

/** The sibling module of the same build, source or compiled: `siblingModule(import.meta, "operations")`. */
export const siblingModule = (meta: { readonly url: string; readonly filename: string }, name: string): URL =>
  new URL(`./${name}${meta.filename.endsWith(".ts") ? ".ts" : ".js"}`, meta.url)

// Primary result codes, https://sqlite.org/rescode.html
const reasonOf = (code: number | string): SqliteError["reason"] => {
  switch (Number(code) & 0xff) {
    case 5:
    case 6:
      return "Busy"
    case 13:
      return "Full"
    case 11:
    case 26:
      return "Corrupt"
    default:
      return "Failed"
  }
}
