/**
 * The memory into which a dialled connection receives: a few large buffers, filled one after another and used again.
 *
 * ```
 *   free ──▶ current (the system fills it, piece after piece) ──▶ read out, in order ──▶ free
 * ```
 *
 * The system must always have memory to fill, even while it is told to pause. So the connection pauses when the last
 * free buffer is about to become the current one, and goes on when another is free again.
 */

const bufferBytes = 1024 * 1024
const buffersPerConnection = 4
/** A buffer with less room than this is not filled further. */
const leastRoom = 256 * 1024

/** Buffers of closed connections, kept for the next ones: short fetches would allocate more than they receive. */
export interface BufferPool {
  readonly take: () => Uint8Array
  readonly give: (buffers: ReadonlyArray<Uint8Array>) => void
}

/** Keeps at most `limit` buffers of 1 MiB. */
export const makePool = (limit: number): BufferPool => {
  const spare: Array<Uint8Array> = []
  return {
    take: () => spare.pop() ?? Buffer.allocUnsafeSlow(bufferBytes),
    give: (buffers) => {
      spare.push(...buffers.slice(0, limit - spare.length))
    }
  }
}

export interface ReceiveBuffers {
  /** Memory to fill next. */
  readonly room: () => Uint8Array
  /** The system has put so many bytes where `room` said. */
  readonly filled: (bytes: number) => void
  /** Makes the next `room`. False when it is the last, and to pause; `resume` is called once there is more. */
  readonly advance: () => boolean
  /** Lends the oldest bytes, in one piece, and takes back what was lent before. */
  readonly take: () => Uint8Array | undefined
  /** Gives all memory back. Only after the system has let go of it. */
  readonly dispose: () => void
}

interface Slot {
  readonly memory: Uint8Array
  /** Where the bytes begin that nobody has read. */
  start: number
  /** Where they end. */
  end: number
}

export const make = (pool: BufferPool, resume: () => void): ReceiveBuffers => {
  const slot = (): Slot => {
    const memory = pool.take()
    all.push(memory)
    return { memory, start: 0, end: 0 }
  }
  const all: Array<Uint8Array> = []
  const free: Array<Slot> = []
  let current = slot()
  const unread: Array<Slot> = [current]
  let lent: Slot | undefined
  let paused = false

  const freeCount = () => free.length + buffersPerConnection - all.length
  const isRead = (slot: Slot) => slot.start === slot.end

  const release = (slot: Slot) => {
    slot.start = 0
    slot.end = 0
    free.push(slot)
    if (!paused) return
    paused = false
    resume()
  }

  return {
    room: () => current.memory.subarray(current.end),
    filled: (bytes) => {
      current.end += bytes
    },
    advance: () => {
      if (bufferBytes - current.end >= leastRoom) return true
      if (isRead(current) && lent !== current) {
        current.start = 0
        current.end = 0
        return true
      }
      current = free.pop() ?? slot()
      unread.push(current)
      paused = freeCount() === 0
      return !paused
    },
    take: () => {
      lent = undefined
      let oldest = unread[0]
      while (oldest !== undefined && oldest !== current && isRead(oldest)) {
        unread.shift()
        release(oldest)
        oldest = unread[0]
      }
      if (oldest === undefined || isRead(oldest)) return undefined
      const bytes = oldest.memory.subarray(oldest.start, oldest.end)
      oldest.start = oldest.end
      lent = oldest
      return bytes
    },
    dispose: () => pool.give(all)
  }
}
