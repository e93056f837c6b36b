/** The side of `Thread.ts` that runs on the thread. */
import { parentPort } from "node:worker_threads"
import type { Reply, Request } from "./Thread.ts"

/** Operations by name; each runs to its end before the next. */
export type Operations = object

/** So many answers go back together at the most. */
const together = 16

const along = new WeakMap<object, ArrayBuffer>()

/** Gives an answer that takes its memory along to the other side, uncopied: nothing here may touch that any more. */
export const withMemory = <A extends object>(answer: A, memory: ArrayBuffer): A => {
  along.set(answer, memory)
  return answer
}

const memoryOf = (reply: Reply): ReadonlyArray<ArrayBuffer> => {
  const memory = reply.ok && typeof reply.value === "object" && reply.value !== null
    ? along.get(reply.value)
    : undefined
  return memory === undefined ? [] : [memory]
}

const failure = (id: number, cause: unknown): Reply => {
  const code: unknown = cause instanceof Error ? Reflect.get(cause, "errcode") ?? Reflect.get(cause, "code") : undefined
  return {
    id,
    ok: false,
    code: typeof code === "number" || typeof code === "string" ? code : 0,
    detail: cause instanceof Error ? cause.message : String(cause)
  }
}

const answer = (operations: Operations, { args, id, operation }: Request): Reply => {
  try {
    const run: unknown = Reflect.get(operations, operation)
    if (typeof run !== "function") throw new Error(`no operation ${operation}`)
    return { id, ok: true, value: run(...args) }
  } catch (cause) {
    return failure(id, cause)
  }
}

/**
 * Answers what the other side asks, in order. When the operations can't be had, everybody who asks gets that failure.
 * `close`, asked for, is the last that is answered.
 */
export const serve = (opened: Operations | Promise<Operations>): void => {
  const port = parentPort
  if (port === null) throw new Error("this module belongs on a worker thread")
  const operations = Promise.resolve(opened).then(
    (operations) => ({ ok: true, operations } as const),
    (cause: unknown) => ({ ok: false, cause } as const)
  )

  port.on("message", async (requests: ReadonlyArray<Request>) => {
    const found = await operations
    for (let at = 0; at < requests.length; at += together) {
      const replies = requests.slice(at, at + together).map((request) =>
        found.ok ? answer(found.operations, request) : failure(request.id, found.cause)
      )
      port.postMessage(replies, replies.flatMap(memoryOf))
    }
    if (requests.some(({ operation }) => operation === "close")) port.close()
  })
}
