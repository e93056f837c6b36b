/** A real node that serves HTTP, and ways to ask it. */
import { assert } from "@effect/vitest"
import { Context, Effect, Layer, Schema } from "effect"
import { createHash } from "node:crypto"
import { writeFile } from "node:fs/promises"
import { request } from "node:http"
import { join } from "node:path"
import { lineOf, run, start } from "../cluster/command.ts"
import { configure, entryLine } from "../cluster/configure.ts"
import { temporaryFolder } from "../support/folder.ts"

export class Node extends Context.Service<Node, { readonly url: string; readonly data: string }>()("test/Node") {}

/** A node that owes one file which nobody has. */
export const node = Layer.effect(
  Node,
  Effect.gen(function*() {
    const folder = yield* temporaryFolder
    const config = yield* configure(folder, "node")
    const manifest = join(folder, "manifest.jsonl")
    yield* Effect.promise(() => writeFile(manifest, `${entryLine("lost/file", "gone")}\n`))
    const imported = yield* run(["manifest", "import", manifest, "--config", config])
    assert.strictEqual(imported.code, 0, imported.stderr)
    const running = yield* start(["node", "--config", config])
    const url = /(http:\S+)\/health/.exec(yield* lineOf(running, /it serves http/))?.[1] ?? ""
    return { url, data: join(folder, "node", "data") }
  })
)

export interface Answer {
  readonly status: number
  readonly headers: Readonly<Record<string, string | ReadonlyArray<string> | undefined>>
  readonly bytes: Buffer
  readonly text: string
}

/** A request whose address is sent as it is written. */
export const ask = Effect.fnUntraced(function*(
  method: string,
  path: string,
  options: {
    readonly headers?: Record<string, string>
    readonly body?: string | Buffer
    readonly localAddress?: string
  } = {}
) {
  const { url } = yield* Node
  const { hostname, port } = new URL(url)
  return yield* Effect.callback<Answer>((resume) => {
    const from = options.localAddress === undefined ? {} : { localAddress: options.localAddress }
    const outgoing = request({ hostname, port, method, path, headers: options.headers ?? {}, ...from }, (response) => {
      const chunks: Array<Buffer> = []
      response.on("data", (chunk: Buffer) => chunks.push(chunk))
      response.on("end", () => {
        const bytes = Buffer.concat(chunks)
        resume(Effect.succeed({
          status: response.statusCode ?? 0,
          headers: response.headers,
          bytes,
          text: bytes.toString()
        }))
      })
    })
    outgoing.on("error", (error) => resume(Effect.die(error)))
    outgoing.end(options.body)
  })
})

export const decode = <S extends Schema.Codec<unknown, unknown>>(schema: S, { text }: Answer) =>
  Schema.decodeUnknownEffect(Schema.fromJsonString(Schema.toCodecJson(schema)))(text)

export const Refused = Schema.Struct({ error: Schema.Struct({ code: Schema.String, message: Schema.NonEmptyString }) })

/** That an answer is a refusal of the one shape. */
export const refused = Effect.fnUntraced(function*(answer: Answer, status: number, code: string) {
  const { error } = yield* decode(Refused, answer)
  assert.deepStrictEqual([answer.status, error.code], [status, code], error.message)
  return error.message
})

export const json = (body: unknown) => ({ headers: { "content-type": "application/json" }, body: JSON.stringify(body) })

export const put = (path: string, body: string | Buffer) => ask("PUT", `/api/v1/files/${path}`, { body })

export const sha256 = (bytes: string | Buffer) => createHash("sha256").update(bytes).digest("hex")
