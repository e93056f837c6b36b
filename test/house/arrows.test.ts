/** The rules of the house: which room may import from which. */
import { assert, describe, it } from "@effect/vitest"
import { readdirSync, readFileSync } from "node:fs"
import { dirname, join, relative } from "node:path"

const src = join(import.meta.dirname, "../../src")
const modules = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((file) => file.endsWith(".ts"))
const room = (file: string) => (file.includes("/") ? file.slice(0, file.indexOf("/")) : "")

const imports = modules.flatMap((file) => {
  const text = readFileSync(join(src, file), "utf8")
  return [...text.matchAll(/(?:from|import)\s*\(?"([^"]+)"/g)].map(([, from = ""]) => ({
    file,
    from: from.startsWith(".") ? relative(src, join(src, dirname(file), from)) : from
  }))
})
const outside = (from: string) => !from.endsWith(".ts")

/** The rooms that a room may import from, besides itself. */
const allowed: Record<string, ReadonlyArray<string>> = {
  ports: [],
  telemetry: ["ports"],
  internal: ["telemetry"],
  config: ["ports"],
  sqlite: ["internal"],
  etcd: [],
  replication: ["ports", "telemetry", "internal"],
  peer: ["ports", "telemetry", "internal"],
  manifest: ["ports", "telemetry", "sqlite", "etcd", "internal"],
  membership: ["ports", "telemetry", "sqlite", "etcd", "internal"],
  inventory: ["ports", "telemetry", "sqlite", "internal"],
  backend: ["ports", "telemetry", "internal"]
}

const offenders = (offends: (each: { file: string; from: string }) => boolean): ReadonlyArray<string> =>
  imports.filter(offends).map(({ file, from }) => `${file} imports ${from}`)

describe("the house", () => {
  it("knows every room", () => {
    assert.isAbove(imports.length, 100)
    const rooms = new Set(modules.map(room))
    assert.deepStrictEqual([...rooms].sort(), ["", "cli", "http", "testing", ...Object.keys(allowed)].sort())
  })

  for (const [name, others] of Object.entries(allowed)) {
    it(`${name}/ imports only ${["itself", ...others].join(", ")} and libraries`, () => {
      const from = offenders(({ file, from }) =>
        room(file) === name && !outside(from) && room(from) !== name && !others.includes(room(from))
      )
      assert.deepStrictEqual(from, [])
    })
  }

  it("has ports that import effect and nothing else", () => {
    const foreign = ({ file, from }: { file: string; from: string }) =>
      room(file) === "ports" && outside(from) && !/^effect(\/|$)/.test(from)
    assert.deepStrictEqual(offenders(foreign), [])
  })

  it("touches sockets only in peer/transport/, databases only in sqlite/ and operations modules", () => {
    const sockets = offenders(({ file, from }) =>
      /^node:(net|tls)$/.test(from) && !file.startsWith("peer/transport/")
      // It only asks the system for free ports.
      && file !== "cli/demo/etcd.ts"
      // It reads pipes, which to Node.js are sockets.
      && file !== "cli/userFiles.ts"
    )
    assert.deepStrictEqual(sockets, [])
    const databases = offenders(({ file, from }) =>
      from === "node:sqlite" && room(file) !== "sqlite" && !file.endsWith("Operations.ts")
    )
    assert.deepStrictEqual(databases, [])
  })

  it("loads the gRPC library in one place, and only when it is needed", () => {
    const grpc = offenders(({ file, from }) => from.startsWith("@grpc/") && file !== "etcd/channel.ts")
    assert.deepStrictEqual(grpc, [])
    const channel = readFileSync(join(src, "etcd/channel.ts"), "utf8")
    assert.notMatch(channel, /^import (?!type).*"@grpc/m)
    assert.include(channel, "import(\"@grpc/grpc-js\")")
  })

  it("keeps the wire's protocol pure", () => {
    const impure = offenders(({ file, from }) =>
      file.startsWith("peer/protocol/") && from.startsWith("node:") && from !== "node:crypto"
    )
    assert.deepStrictEqual(impure, [])
  })

  it("uses platform-node only in the daemon's faces", () => {
    const faces = offenders(({ file, from }) =>
      from.startsWith("@effect/platform-node") && !["cli", "http"].includes(room(file)) && file !== "main.ts"
    )
    assert.deepStrictEqual(faces, [])
  })

  it("takes the time from Clock alone", () => {
    // What runs in a browser has only the browser's.
    const own = modules.filter((file) =>
      file !== "http/dashboard/script.ts"
      && /Date\.now\(|new Date\(\)|performance\.now\(/.test(readFileSync(join(src, file), "utf8"))
    )
    assert.deepStrictEqual(own, [])
  })
})
