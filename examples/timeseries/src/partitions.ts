/** Points by the file that they go into: `database/measurement/2026/04/11/14/`. */
import type { Field, FieldType, Point } from "./lineProtocol.ts"

export interface Partition {
  readonly database: string
  readonly measurement: string
  /** Of the hour: `database/measurement/2026/04/11/14`. */
  readonly folder: string
  readonly points: ReadonlyArray<Point>
}

/** A name as one component of a path. */
const component = (name: string): string => encodeURIComponent(name).replaceAll("*", "%2A").replace(/^\./, "%2E")

/** Longer ones would not fit into a path. */
export const maxName = 80

/** Of one measurement: a file has a column for each of them, in each row. */
export const maxColumns = 256

export const folderOf = (database: string, measurement: string, time: bigint): string => {
  // Division goes towards 0: before 1970, to the next millisecond, which may be another hour's.
  const hour = new Date(Number((time - (time < 0n ? 999_999n : 0n)) / 1_000_000n)).toISOString()
  const [, year, month, day, hh] = /^([+-]?\d+)-(\d\d)-(\d\d)T(\d\d)/.exec(hour) ?? []
  return [component(database), component(measurement), year, month, day, hh].join("/")
}

export const partitionsOf = (database: string, points: ReadonlyArray<Point>): ReadonlyArray<Partition> => {
  const byFolder = new Map<string, { measurement: string; points: Array<Point> }>()
  for (const point of points) {
    const folder = folderOf(database, point.measurement, point.time)
    const partition = byFolder.get(folder)
    if (partition === undefined) byFolder.set(folder, { measurement: point.measurement, points: [point] })
    else partition.points.push(point)
  }
  return Array.from(byFolder, ([folder, { measurement, points }]) => ({ database, measurement, folder, points }))
}

/** The columns of points: `time`, tags, then fields; a column has one type, which {@link extend} made sure of. */
export const columnsOf = (points: ReadonlyArray<Point>): ReadonlyMap<string, FieldType | "TIMESTAMP_NS"> => {
  const columns = new Map<string, FieldType | "TIMESTAMP_NS">([["time", "TIMESTAMP_NS"]])
  for (const { tags } of points) for (const key of tags.keys()) columns.set(key, "VARCHAR")
  for (const { fields } of points) for (const [key, { type }] of fields) columns.set(key, type)
  return columns
}

/** What a column of a measurement holds: a tag is not a field, and a field keeps its first type. */
export type Kind = FieldType | "tag"

/** The columns of one measurement, under their names in small letters: DuckDB does not tell `Host` from `host`. */
export interface Known {
  readonly measurement: string
  readonly columns: ReadonlyMap<string, { readonly name: string; readonly kind: Kind }>
}

/** What is known of a measurement once a point has come; or why the point does not fit. */
export const extend = (known: Known | undefined, point: Point): Known | string => {
  const before = known?.columns ?? new Map<string, never>()
  // What is new; nearly always nothing, and then nothing is copied.
  const added = new Map<string, { readonly name: string; readonly kind: Kind }>()
  if (known !== undefined && known.measurement !== point.measurement) {
    return `the measurement "${point.measurement}" is written "${known.measurement}"`
  }
  const kinds: Array<[string, Kind]> = [
    ...Array.from(point.tags.keys(), (key): [string, Kind] => [key, "tag"]),
    ...Array.from(point.fields, ([key, { type }]: [string, Field]): [string, Kind] => [key, type])
  ]
  for (const [name, kind] of kinds) {
    const small = name.toLowerCase()
    const column = before.get(small) ?? added.get(small)
    if (column === undefined) {
      if (before.size + added.size === maxColumns) {
        return `"${name}" is too much: ${point.measurement} has ${maxColumns} columns already`
      }
      added.set(small, { name, kind })
    } else if (column.name !== name) return `"${name}" is written "${column.name}"`
    else if (column.kind !== kind) return `"${name}" of ${point.measurement} is ${kind}, and was ${column.kind} before`
  }
  if (known !== undefined && added.size === 0) return known
  return { measurement: point.measurement, columns: new Map([...before, ...added]) }
}
