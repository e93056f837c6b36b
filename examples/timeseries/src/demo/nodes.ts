/** The nodes of the demo: real processes on this machine, and how a client talks to them. */
import { type ChildProcess, spawn } from "node:child_process"
import { once } from "node:events"
import { join } from "node:path"
import { createInterface } from "node:readline"
import { setTimeout as sleep } from "node:timers/promises"

/** Milliseconds that a node may take to come up, or to come to something. */
const patience = 60_000

export interface Node {
  readonly id: string
  readonly folder: string
  readonly url: string
  readonly process: ChildProcess
}

export const start = async (folder: string, id: string, role: "writer" | "reader"): Promise<Node> => {
  const child = spawn(process.execPath, [
    "--disable-warning=ExperimentalWarning",
    join(import.meta.dirname, "../node.ts")
  ], {
    // Nothing is flushed by itself, so that the demo decides when.
    env: {
      PATH: process.env["PATH"] ?? "",
      NODE_ID: id,
      NODE_ROLE: role,
      NODE_FOLDER: join(folder, id),
      MANIFEST: join(folder, "manifest.db"),
      SECRET: "a secret of the demo",
      FLUSH_MILLIS: "600000"
    },
    stdio: ["ignore", "pipe", "pipe"]
  })
  let said = ""
  child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()))
  const lines = createInterface({ input: child.stdout })
  const url = new Promise<string>((resolve, reject) => {
    lines.on("line", (line) => {
      if (line.startsWith("{\"url\"")) resolve(String(JSON.parse(line).url))
      else said += `${line}\n`
    })
    child.once("exit", (code) => reject(new Error(`${id} ended with ${code}:\n${said}`)))
  })
  const limit = setTimeout(() => {
    said += `it was not up within ${patience} ms`
    child.kill("SIGKILL")
  }, patience)
  try {
    return { id, folder: join(folder, id), url: await url, process: child }
  } finally {
    clearTimeout(limit)
  }
}

/** Ends a node; `SIGKILL` is a crash. */
export const stop = async (node: Node, signal: "SIGTERM" | "SIGKILL") => {
  if (node.process.exitCode !== null || node.process.signalCode !== null) return
  const ended = once(node.process, "exit")
  node.process.kill(signal)
  await ended
}

export interface Response {
  readonly status: number
  readonly body: unknown
}

export const post = async (
  url: string,
  body: string | Uint8Array<ArrayBuffer>,
  headers: Record<string, string> = {}
) => {
  const response = await fetch(url, { method: "POST", body, headers })
  const text = await response.text()
  return { status: response.status, body: text === "" ? undefined : JSON.parse(text) } satisfies Response
}

/** The position that a flush or a merge has reached. */
export const reached = async (node: Node, what: "flush" | "compact"): Promise<number> => {
  const { body, status } = await post(`${node.url}/${what}`, "")
  const revision: unknown = Reflect.get(Object(body), "revision")
  if (status !== 200 || typeof revision !== "number") throw new Error(`${what}: ${status} ${JSON.stringify(body)}`)
  return revision
}

export const ask = (node: Node, sql: string, minRevision = 0) =>
  post(`${node.url}/query`, JSON.stringify({ db: "metrics", sql, min_revision: minRevision }))

/** Asks until the node has everything up to a revision: it says 503 until then. */
export const rows = async (
  node: Node,
  sql: string,
  minRevision = 0
): Promise<ReadonlyArray<ReadonlyArray<unknown>>> => {
  for (const since = performance.now();;) {
    const { body, status } = await ask(node, sql, minRevision)
    const found: unknown = Reflect.get(Object(body), "rows")
    if (status === 200 && Array.isArray(found)) return found
    if (status !== 503 || performance.now() - since > patience) {
      throw new Error(`${node.id} does not answer ${sql}: ${status} ${JSON.stringify(body)}`)
    }
    await sleep(50)
  }
}

/** Waits until something is so. */
export const until = async (what: string, check: () => Promise<boolean>) => {
  for (const since = performance.now(); !(await check());) {
    if (performance.now() - since > patience) throw new Error(`it never came to this: ${what}`)
    await sleep(50)
  }
}
