/**
 * How a manifest lies in etcd. Pure.
 *
 * ```
 * /<namespace>/m/f/<path>   a file that stands
 * /<namespace>/m/t/<path>   a tombstone: why and when the path was removed, and what it buried
 * /<namespace>/m/h          the head: written by every change, so its revision is that of the newest one
 * ```
 *
 * Keys are in the order of the paths' bytes, which is the order of pages. Every change has a random mark, which its
 * entries, its tombstones and the head carry.
 */
import { Result, Schema } from "effect"
import type { KeyValue } from "../etcd/messages.ts"
import * as ExactJson from "../ports/ExactJson.ts"
import { explain } from "../ports/explain.ts"
import { FileEntry, type Registered, Revision } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"

export interface Keys {
  readonly head: string
  readonly file: (path: string) => string
  readonly tombstone: (path: string) => string
  /** The end of a range that begins at `file("")` or `tombstone("")`. */
  readonly filesEnd: string
  readonly tombstonesEnd: string
  /** Everything of the manifest. */
  readonly all: { readonly key: string; readonly rangeEnd: string }
  readonly kindOf: (key: string) => "file" | "tombstone" | "head" | undefined
}

export const keysOf = (namespace: string): Keys => {
  const root = `/${namespace}/m/`
  const files = `${root}f/`
  const tombstones = `${root}t/`
  const head = `${root}h`
  return {
    head,
    file: (path) => files + path,
    tombstone: (path) => tombstones + path,
    // "0" is the character behind "/".
    filesEnd: `${root}f0`,
    tombstonesEnd: `${root}t0`,
    all: { key: root, rangeEnd: `/${namespace}/m0` },
    kindOf: (key) =>
      key.startsWith(files) ? "file" : key.startsWith(tombstones) ? "tombstone" : key === head ? "head" : undefined
  }
}

const FileValue = Schema.Struct({ mark: Schema.String, entry: FileEntry })

const TombstoneValue = Schema.Struct({
  mark: Schema.String,
  path: FilePath,
  reason: Schema.String,
  /** When it was made, milliseconds since 1970. */
  at: Schema.Natural,
  /** The file that stood before: what a cursor at its revision is known by. */
  buried: Schema.optionalKey(Schema.Struct({ revision: Revision, mark: Schema.String }))
})

export interface StandingFile extends Registered {
  readonly mark: string
}

export interface Tombstone extends Schema.Schema.Type<typeof TombstoneValue> {
  readonly revision: Revision
}

export const fileValue = (mark: string, entry: FileEntry): string => ExactJson.stringify({ mark, entry })

export const tombstoneValue = (tombstone: Schema.Schema.Type<typeof TombstoneValue>): string =>
  ExactJson.stringify(tombstone)

/** The identity of a change: its mark, and a path of it, by which it is found again when events are no longer kept. */
export const identityOf = (mark: string, path: string): string => `${mark} ${path}`

export const partsOf = (identity: string): { readonly mark: string; readonly path: string } => {
  const border = identity.indexOf(" ")
  return { mark: identity.slice(0, Math.max(border, 0)), path: identity.slice(border + 1) }
}

/** A key holds what no manifest writes; who reads it can't go on, everybody else can. */
export class Damaged extends Schema.TaggedError<Damaged>()("Damaged", { key: Schema.String, why: Schema.String }) {
  override get message(): string {
    return `the key ${this.key} holds what no manifest writes: ${this.why}; remove it, or put back what it was`
  }
}

const decode = <S extends Schema.ConstraintDecoder<unknown>>(schema: S) => {
  const run = Schema.decodeUnknownResult(schema)
  return (kv: KeyValue): Result.Result<S["Type"], Damaged> =>
    ExactJson.parse(kv.value.toString("utf8")).pipe(
      Result.flatMap((value) => Result.mapError(run(value), explain)),
      Result.mapError((why) => new Damaged({ key: kv.key, why }))
    )
}

const decodeFile = decode(FileValue)
const decodeTombstone = decode(TombstoneValue)

export const fileOf = (kv: KeyValue): Result.Result<StandingFile, Damaged> =>
  Result.map(decodeFile(kv), ({ entry, mark }) => ({ entry, mark, revision: Revision.make(kv.modRevision) }))

export const tombstoneOf = (kv: KeyValue): Result.Result<Tombstone, Damaged> =>
  Result.map(decodeTombstone(kv), (value) => ({ ...value, revision: Revision.make(kv.modRevision) }))
