/** What the SQLite thread answers, decoded: the file may be damaged or from elsewhere. */
import { Effect, Result, Schema } from "effect"
import { explain } from "../ports/explain.ts"
import { FileEntry, Revision } from "../ports/FileEntry.ts"
import { FilePath } from "../ports/FilePath.ts"
import { Conflict, Cursor, CursorLost, Gone, Unavailable } from "../ports/Manifest.ts"

const File = Schema.Struct({ revision: Revision, entry: FileEntry })

const Refusal = {
  Taken: Schema.TaggedStruct("Taken", { kind: Conflict.fields.kind, standing: File }),
  Gone: Schema.TaggedStruct("Gone", { reason: Schema.String })
}

export const Files = Schema.Array(File)

const Registration = Schema.Union([
  Schema.TaggedStruct("Added", { revision: Revision }),
  Schema.TaggedStruct("Standing", { file: File }),
  Refusal.Taken,
  Refusal.Gone
])

export const Replaced = Schema.Union([
  Schema.TaggedStruct("Done", { revision: Revision }),
  Schema.Struct({ ...Refusal.Taken.fields, path: FilePath }),
  Schema.Struct({ ...Refusal.Gone.fields, path: FilePath })
])

export const Events = Schema.Union([
  Schema.TaggedStruct("Nothing", {}),
  Schema.TaggedStruct("Lost", { reason: CursorLost.fields.reason }),
  Schema.TaggedStruct("Batch", {
    cursor: Cursor,
    events: Schema.Array(Schema.Union([
      Schema.TaggedStruct("Put", { file: File }),
      Schema.TaggedStruct("Removed", { path: FilePath, revision: Revision, reason: Schema.String })
    ]))
  })
])

export const Lost = Schema.UndefinedOr(CursorLost.fields.reason)

/** The typed failure behind a refusal of `path`. */
export const refusalOf = (
  path: FilePath,
  refusal: typeof Refusal.Taken.Type | typeof Refusal.Gone.Type
): Conflict | Gone =>
  refusal._tag === "Gone"
    ? new Gone({ path, reason: refusal.reason })
    : new Conflict({ path, kind: refusal.kind, standing: refusal.standing.entry })

const decodeRegistration = Schema.decodeUnknownResult(Registration)

const damage = (error: Parameters<typeof explain>[0]) => `the file holds what no manifest writes: ${explain(error)}`

/** What became of one registration. */
export const decodeAnswer = (
  answer: unknown
): typeof Registration.Type | { readonly _tag: "Damaged"; readonly detail: string } =>
  Result.getOrElse(decodeRegistration(answer), (error) => ({ _tag: "Damaged", detail: damage(error) }))

export const decode = <S extends Schema.ConstraintDecoder<unknown>>(operation: string, schema: S) => {
  const run = Schema.decodeUnknownEffect(schema)
  return (answer: unknown): Effect.Effect<S["Type"], Unavailable, S["DecodingServices"]> =>
    Effect.mapError(
      run(answer),
      (error) => new Unavailable({ operation, detail: damage(error) })
    )
}
