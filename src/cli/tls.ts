/** `file-replication tls init`: an authority and node certificates for a first cluster. */
import { Console, Effect, FileSystem, Schema } from "effect"
import { Argument, Command, Flag } from "effect/cli"
import { join, resolve } from "node:path"
import { isNumeric } from "../peer/transport/Tls.ts"
import { NodeId } from "../ports/FileEntry.ts"
import { issue, type Issued, makeAuthority } from "./certificates.ts"
import { json } from "./flags.ts"
import { fileFailed } from "./userFiles.ts"

/** What a node is called and where it is reached: `reader-1=10.0.0.2,reader-1.example`. */
const Node = Schema.String.check(
  Schema.makeFilter((text: string) => parseNode(text) !== undefined || "a node such as reader-1=10.0.0.2,db.example")
)

const isHost = (text: string): boolean => isNumeric(text) || /^(?=.{1,253}$)[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*$/.test(text)

const parseNode = (text: string): { readonly id: string; readonly hosts: ReadonlyArray<string> } | undefined => {
  const at = text.indexOf("=")
  const id = text.slice(0, Math.max(at, 0))
  const hosts = text.slice(at + 1).split(",")
  // `ca` is the authority's own name in the folder.
  return id !== "ca" && Schema.is(NodeId)(id) && hosts.every(isHost) ? { id, hosts } : undefined
}

const authorityDays = 3650

/**
 * Fills a folder: `ca.pem` and `ca.key` unless they are there, and `ID.pem` and `ID.key` of each node. A certificate that
 * is there is left alone unless `renew` is set.
 */
export const tlsInit = Effect.fn("tlsInit")(function*(options: {
  readonly folder: string
  readonly nodes: ReadonlyArray<string>
  readonly days: number
  readonly renew: boolean
  readonly json: boolean
}) {
  const fs = yield* FileSystem.FileSystem
  const file = (name: string) => join(options.folder, name)
  const read = (name: string) =>
    fs.readFileString(file(name)).pipe(Effect.catchTag("PlatformError", fileFailed(file(name))))
  const write = (name: string, text: string, mode: number) =>
    // Whole or not at all: a running node may be reading it.
    fs.writeFileString(file(`${name}.new`), text, { mode }).pipe(
      Effect.andThen(fs.rename(file(`${name}.new`), file(name))),
      Effect.catchTag("PlatformError", fileFailed(file(name)))
    )
  const exists = (name: string) => Effect.orElseSucceed(fs.exists(file(name)), () => false)
  const keep = Effect.fnUntraced(function*(name: string, issued: Issued) {
    yield* write(`${name}.key`, issued.key, 0o600)
    yield* write(`${name}.pem`, issued.certificate, 0o644)
  })

  yield* fs.makeDirectory(options.folder, { recursive: true, mode: 0o700 }).pipe(
    Effect.catchTag("PlatformError", fileFailed(options.folder))
  )
  const say = (line: string) => options.json ? Effect.void : Console.log(line)
  const made = !(yield* exists("ca.key"))
  if (made) {
    yield* keep("ca", yield* makeAuthority("file-replication authority", authorityDays))
    yield* say(`${file("ca.pem")}  the authority; every node trusts it`)
    yield* say(`${file("ca.key")}  its key; keep it off the nodes`)
  }
  const authority: Issued = { certificate: yield* read("ca.pem"), key: yield* read("ca.key") }
  const files = (name: string) => ({
    certificate: resolve(file(`${name}.pem`)),
    key: resolve(file(`${name}.key`))
  })
  const nodes: Array<Readonly<Record<string, unknown>>> = []
  for (const { hosts, id } of options.nodes.flatMap((text) => parseNode(text) ?? [])) {
    const kept = !options.renew && (yield* exists(`${id}.pem`))
    nodes.push({ node: id, hosts, made: !kept, ...files(id) })
    if (kept) {
      yield* say(`${file(`${id}.pem`)}  is there already; --renew replaces it`)
      continue
    }
    yield* keep(id, yield* issue({ authority, node: id, hosts, days: options.days }))
    yield* say(`${file(`${id}.pem`)}  for ${id} at ${hosts.join(", ")}, ${options.days} days`)
  }
  if (options.json) {
    return yield* Console.log(JSON.stringify({ authority: { made, ...files("ca") }, nodes }))
  }
  yield* say(`
In each node's configuration, below the line [cluster] that is there, with the node's own id for NODE_ID:

tls_enabled = true
tls_ca_file = ${JSON.stringify(resolve(file("ca.pem")))}
tls_cert_file = ${JSON.stringify(resolve(file("NODE_ID.pem")))}
tls_key_file = ${JSON.stringify(resolve(file("NODE_ID.key")))}`)
})

const init = Command.make("init", {
  json,
  folder: Argument.String("FOLDER").pipe(Argument.withDescription("Where the certificates and keys are written")),
  nodes: Flag.String("node").pipe(
    Flag.withSchema(Node),
    Flag.withMetavar("ID=HOST[,HOST]"),
    Flag.withDescription("A node and the addresses or names under which the others reach it; may be given again"),
    Flag.atLeast(1)
  ),
  days: Flag.Int("days").pipe(
    Flag.withSchema(Schema.Int.check(Schema.isBetween({ minimum: 1, maximum: authorityDays }))),
    Flag.withDescription("How many days a node's certificate is good; else 825"),
    Flag.withDefault(825)
  ),
  renew: Flag.Boolean("renew").pipe(
    Flag.withDescription("Replace certificates that are there; running nodes take them up by themselves"),
    Flag.withDefault(false)
  )
}, tlsInit).pipe(Command.withDescription("Make an authority and a certificate for each node"))

export const tlsCommand = Command.make("tls").pipe(
  Command.withDescription("Certificates for mutual TLS between nodes"),
  Command.withSubcommands([init])
)
