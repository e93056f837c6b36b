/** DuckDB: writes points to Parquet, merges files, answers queries. Each call has a database of its own, in memory. */
import {
  type DuckDBConnection,
  type DuckDBDataChunk,
  DuckDBInstance,
  type DuckDBPreparedStatement,
  DuckDBTimestampNanosecondsValue,
  DuckDBTypeId,
  type Json,
  JsonDuckDBValueConverter
} from "@duckdb/node-api"
import duckdb from "@duckdb/node-bindings"
import { Duration, Effect, Schema, type Scope } from "effect"
import { setImmediate } from "node:timers/promises"
import type { FieldType, Point } from "./lineProtocol.ts"
import { columnsOf } from "./partitions.ts"
import { Parsed, refusalOf } from "./statement.ts"

/** DuckDB could not do what was asked. */
export class DuckFailed extends Schema.TaggedError<DuckFailed>()("DuckFailed", { detail: Schema.String }) {
  override get message(): string {
    return this.detail
  }
}

/** The query is not one that is answered, or has a mistake. */
export class BadQuery extends Schema.TaggedError<BadQuery>()("BadQuery", { detail: Schema.String }) {
  override get message(): string {
    return this.detail
  }
}

/** The query is fine, and its answer is more than may be sent. */
export class AnswerTooLarge extends Schema.TaggedError<AnswerTooLarge>()("AnswerTooLarge", { most: Schema.String }) {
  override get message(): string {
    return `the answer has more than ${this.most}; aggregate, choose columns, or add a LIMIT`
  }
}

const identifier = (name: string) => `"${name.replaceAll("\"", "\"\"")}"`
const literal = (text: string) => `'${text.replaceAll("'", "''")}'`
const list = (files: ReadonlyArray<string>) => `[${files.map(literal).join(", ")}]`
const detailOf = (cause: unknown) => (cause instanceof Error ? cause.message : String(cause))

/** A connection that is closed with the scope, and not before what runs on it has ended. */
const connect = (options: Record<string, string>): Effect.Effect<DuckDBConnection, DuckFailed, Scope.Scope> =>
  Effect.acquireRelease(
    Effect.tryPromise({
      try: async () => (await DuckDBInstance.create(":memory:", options)).connect(),
      catch: (cause) => new DuckFailed({ detail: detailOf(cause) })
    }),
    (connection) => Effect.sync(() => connection.closeSync())
  )

/** Runs something on a connection; when nobody waits for it any more it is interrupted, and waited for. */
const run = <A>(connection: DuckDBConnection, body: (connection: DuckDBConnection) => Promise<A>) =>
  Effect.callback<A, DuckFailed>((resume) => {
    const running = body(connection).then(
      (value) => resume(Effect.succeed(value)),
      (cause) => resume(Effect.fail(new DuckFailed({ detail: detailOf(cause) })))
    )
    return Effect.promise(() => {
      connection.interrupt()
      return running
    })
  })

/** One thread, so that the same points give the same bytes: what is flushed again after a crash is the same file. */
const writing = (file: string) => ({ threads: "1", memory_limit: "512MB", temp_directory: `${file}.tmp` })

const copy = (query: string, file: string) => `COPY (${query}) TO ${literal(file)} (FORMAT parquet, COMPRESSION zstd)`

export const writeParquet = Effect.fn("writeParquet")(function*(points: ReadonlyArray<Point>, file: string) {
  const connection = yield* connect(writing(file))
  const columns = columnsOf(points)
  yield* run(connection, async () => {
    const spelled = Array.from(columns, ([name, type]) => `${identifier(name)} ${type}`)
    await connection.run(`CREATE TABLE points (${spelled.join(", ")})`)
    const appender = await connection.createAppender("points")
    for (const [n, point] of points.entries()) {
      // Others have their turn.
      if (n % 2000 === 1999) await setImmediate()
      for (const [name, type] of columns) {
        if (type === "TIMESTAMP_NS") {
          appender.appendTimestampNanoseconds(new DuckDBTimestampNanosecondsValue(point.time))
        } else append(appender, type, point.fields.get(name)?.value ?? point.tags.get(name))
      }
      appender.endRow()
    }
    appender.closeSync()
    await connection.run(copy("SELECT * FROM points ORDER BY time", file))
  })
}, Effect.scoped)

type Appender = Awaited<ReturnType<DuckDBConnection["createAppender"]>>

const append = (appender: Appender, type: FieldType, value: number | bigint | string | boolean | undefined): void => {
  if (value === undefined) appender.appendNull()
  else if (typeof value === "number") appender.appendDouble(value)
  else if (typeof value === "string") appender.appendVarchar(value)
  else if (typeof value === "boolean") appender.appendBoolean(value)
  else if (type === "UBIGINT") appender.appendUBigInt(value)
  else appender.appendBigInt(value)
}

export const mergeParquet = Effect.fn("mergeParquet")(function*(files: ReadonlyArray<string>, file: string) {
  const connection = yield* connect(writing(file))
  const all = `SELECT * FROM read_parquet(${
    list(files)
  }, union_by_name = true, hive_partitioning = false) ORDER BY time`
  yield* run(connection, () => connection.run(copy(all, file)))
}, Effect.scoped)

export interface Answer {
  readonly columns: ReadonlyArray<string>
  readonly rows: ReadonlyArray<ReadonlyArray<Json>>
}

/** What one query may take. `bytes`: of the rows, as JSON. */
export interface Limits {
  readonly rows: number
  readonly columns: number
  readonly bytes: number
  readonly time: Duration.Duration
  readonly memory: string
}

export const defaultLimits: Limits = {
  rows: 10_000,
  columns: 1000,
  bytes: 16 * 1024 * 1024,
  time: Duration.seconds(10),
  memory: "512MB"
}

/**
 * Answers one SELECT over tables that are made of files. The statement is not trusted: it reaches these files and
 * nothing else, writes nothing, can't change a setting, and is bounded in memory, time, rows and bytes.
 */
export const query = Effect.fn("query")(function*(
  tables: ReadonlyMap<string, ReadonlyArray<string>>,
  sql: string,
  limits: Limits = defaultLimits
) {
  if (sql.length > maxSql) return yield* new BadQuery({ detail: `the SQL is longer than ${maxSql} characters` })
  const connection = yield* connect({
    threads: "2",
    memory_limit: limits.memory,
    temp_directory: "",
    autoinstall_known_extensions: "false",
    autoload_known_extensions: "false"
  })
  const files = Array.from(tables.values()).flat()
  const parsed = yield* run(connection, async () => {
    await connection.run(`SET allowed_paths = ${list(files)}`)
    await connection.run("SET enable_external_access = false")
    for (const [name, own] of tables) {
      await connection.run(
        `CREATE VIEW ${identifier(name)} AS `
          + `SELECT * FROM read_parquet(${list(own)}, union_by_name = true, hive_partitioning = false)`
      )
    }
    await connection.run("SET lock_configuration = true")
    return (await connection.runAndReadAll("SELECT json_serialize_sql($1::VARCHAR)", [sql])).getRows()
  })
  const refused = refusalOf(yield* Effect.orDie(Schema.decodeUnknownEffect(Parsed)(parsed)))
  if (refused !== undefined) return yield* new BadQuery({ detail: refused })
  return yield* run(connection, () => read(connection, sql, limits)).pipe(
    Effect.catchTag("DuckFailed", ({ detail }) => Effect.fail(new BadQuery({ detail }))),
    Effect.timeoutOrElse({
      duration: limits.time,
      orElse: () => Effect.fail(new BadQuery({ detail: `it took longer than ${Duration.toMillis(limits.time)} ms` }))
    }),
    Effect.flatMap((answer) => "rows" in answer ? Effect.succeed(answer) : Effect.fail(answer))
  )
}, Effect.scoped)

/** UTF-16 units. The tree of a statement is some hundred times as long, and is read as a whole. */
const maxSql = 64 * 1024

/**
 * What a column of an answer may be: all that is small, and text and bytes, whose lengths can be seen before they are
 * converted. A list can have millions of elements, and nobody else has a turn while one value is converted.
 */
const measured: ReadonlySet<DuckDBTypeId> = new Set([DuckDBTypeId.VARCHAR, DuckDBTypeId.BLOB])
const small: ReadonlySet<DuckDBTypeId> = new Set([
  DuckDBTypeId.BOOLEAN,
  DuckDBTypeId.TINYINT,
  DuckDBTypeId.SMALLINT,
  DuckDBTypeId.INTEGER,
  DuckDBTypeId.BIGINT,
  DuckDBTypeId.HUGEINT,
  DuckDBTypeId.UTINYINT,
  DuckDBTypeId.USMALLINT,
  DuckDBTypeId.UINTEGER,
  DuckDBTypeId.UBIGINT,
  DuckDBTypeId.UHUGEINT,
  DuckDBTypeId.FLOAT,
  DuckDBTypeId.DOUBLE,
  DuckDBTypeId.DECIMAL,
  DuckDBTypeId.DATE,
  DuckDBTypeId.TIME,
  DuckDBTypeId.TIME_NS,
  DuckDBTypeId.TIME_TZ,
  DuckDBTypeId.TIMESTAMP,
  DuckDBTypeId.TIMESTAMP_S,
  DuckDBTypeId.TIMESTAMP_MS,
  DuckDBTypeId.TIMESTAMP_NS,
  DuckDBTypeId.TIMESTAMP_TZ,
  DuckDBTypeId.INTERVAL,
  DuckDBTypeId.ENUM,
  DuckDBTypeId.UUID,
  DuckDBTypeId.SQLNULL
])

const columnsRefused = (prepared: DuckDBPreparedStatement, { columns }: Limits) => {
  const { columnCount } = prepared
  if (columnCount > columns) return new AnswerTooLarge({ most: `${columns} columns` })
  for (let column = 0; column < columnCount; column++) {
    const type = prepared.columnTypeId(column)
    if (small.has(type) || measured.has(type)) continue
    const name = prepared.columnName(column)
    return new BadQuery({
      detail: `the column "${name}" is of the type ${prepared.columnType(column)}, which is not sent: `
        + "take it apart, by unnest(…) or by its members, or make it text, by to_json(…) or …::VARCHAR"
    })
  }
  return undefined
}

/** Bytes of a string as DuckDB keeps it in a column: its length, then its start or where it lies. */
const stringSize = 16

/** For each row the bytes of its texts and blobs, none of which is converted for it. As JSON they are not fewer. */
const lengthsOf = (chunk: DuckDBDataChunk, columns: ReadonlyArray<number>): ReadonlyArray<number> => {
  const { rowCount } = chunk
  const lengths = Array.from({ length: rowCount }, () => 0)
  for (const column of columns) {
    const vector = duckdb.data_chunk_get_vector(chunk.chunk, column)
    const { buffer, byteLength, byteOffset } = duckdb.vector_get_data(vector, rowCount * stringSize)
    const strings = new DataView(buffer, byteOffset, byteLength)
    const valid = duckdb.vector_get_validity(vector, Math.ceil(rowCount / 64) * 8)
    for (let row = 0; row < rowCount; row++) {
      // What stands for NULL is no string.
      if (duckdb.validity_row_is_valid(valid, row)) {
        lengths[row] = (lengths[row] ?? 0) + strings.getUint32(row * stringSize, true)
      }
    }
  }
  return lengths
}

/** As much as may be of the answer is in memory at a time, and one chunk of 2,048 rows as DuckDB has it. */
const read = async (
  connection: DuckDBConnection,
  sql: string,
  limits: Limits
): Promise<Answer | AnswerTooLarge | BadQuery> => {
  const prepared = await connection.prepare(sql)
  const refused = columnsRefused(prepared, limits)
  if (refused !== undefined) return refused
  const texts = Array.from({ length: prepared.columnCount }, (_, column) => column).filter((column) =>
    measured.has(prepared.columnTypeId(column))
  )
  const result = await prepared.stream()
  const rows: Array<ReadonlyArray<Json>> = []
  let bytes = 0
  for (;;) {
    const chunk = await result.fetchChunk()
    if (chunk === null || chunk.rowCount === 0) return { columns: result.deduplicatedColumnNames(), rows }
    const lengths = lengthsOf(chunk, texts)
    for (let row = 0; row < chunk.rowCount; row++) {
      if (bytes + (lengths[row] ?? 0) > limits.bytes) return new AnswerTooLarge({ most: `${limits.bytes} bytes` })
      const values = chunk.convertRowValues(row, JsonDuckDBValueConverter)
      bytes += Buffer.byteLength(JSON.stringify(values))
      if (bytes > limits.bytes) return new AnswerTooLarge({ most: `${limits.bytes} bytes` })
      if (rows.push(values) > limits.rows) return new AnswerTooLarge({ most: `${limits.rows} rows` })
    }
  }
}
