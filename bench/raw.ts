/**
 * The ceiling: a socket, SHA-256 and a file, and nothing else. No names, no checks, no framing beyond a length.
 *
 *     node raw.ts send FILE…             prints its port, then sends each file to whoever asks for it by number
 *     node raw.ts receive PORT FOLDER SYNC LANES SIZE…
 *
 * `receive` writes the files into a folder, `LANES` at once, a connection each, and syncs each when `SYNC` is 1. It prints
 * milliseconds.
 */
import { createHash } from "node:crypto"
import { closeSync, fsync, openSync, read, renameSync, statSync, write } from "node:fs"
import { connect, createServer } from "node:net"
import { join } from "node:path"
import { promisify } from "node:util"

const [role, ...rest] = process.argv.slice(2)
const readAsync = promisify(read)
const fsyncAsync = promisify(fsync)
const sendChunk = 1024 * 1024
const receiveChunk = 1024 * 1024
const ring = 4

const send = (files: ReadonlyArray<string>) => {
  const server = createServer((socket) => {
    socket.on("error", () => undefined)
    // Each connection asks for one after another.
    socket.on("data", (asked: Buffer) => {
      const file = files[asked.readUInt32BE(0)]
      if (file !== undefined) void sendFile(file)
    })
    const sendFile = async (file: string) => {
      const fd = openSync(file, "r")
      const { size } = statSync(file)
      const chunk = Math.min(size, sendChunk)
      const buffers = Array.from({ length: Math.min(3, Math.ceil(size / sendChunk)) }, () => Buffer.allocUnsafe(chunk))
      const done: Array<Promise<void>> = []
      for (let at = 0, n = 0; at < size; at += chunk, n++) {
        const slot = n % buffers.length
        await done[slot]
        const buffer = buffers[slot] ?? Buffer.allocUnsafe(chunk)
        const { bytesRead } = await readAsync(fd, buffer, 0, chunk, at)
        done[slot] = new Promise((resolve) => socket.write(buffer.subarray(0, bytesRead), () => resolve()))
      }
      await Promise.all(done)
      closeSync(fd)
    }
  })
  server.listen(0, "127.0.0.1", () => {
    const address = server.address()
    process.send?.(typeof address === "object" && address !== null ? address.port : 0)
  })
  process.once("disconnect", () => process.exit(0))
}

/** Receives one file after another over one connection, until `next` gives none. */
const receiveMany = (
  port: number,
  folder: string,
  sync: boolean,
  sizes: ReadonlyArray<number>,
  next: () => number | undefined
) =>
  new Promise<void>((resolve, reject) => {
    const free = Array.from({ length: ring }, () => Buffer.allocUnsafe(receiveChunk))
    const begin = () => {
      const n = next()
      if (n === undefined) {
        socket.end()
        resolve()
        return undefined
      }
      const asked = Buffer.alloc(4)
      asked.writeUInt32BE(n)
      socket.write(asked)
      const staged = join(folder, `${n}.part`)
      return { n, staged, fd: openSync(staged, "w"), hash: createHash("sha256"), position: 0, writing: 0 }
    }
    const finish = async ({ fd, hash, n, staged }: Exclude<ReturnType<typeof begin>, undefined>) => {
      hash.digest("hex")
      if (sync) await fsyncAsync(fd)
      closeSync(fd)
      renameSync(staged, join(folder, `${n}`))
      file = begin()
    }
    const socket = connect({
      port,
      host: "127.0.0.1",
      onread: {
        buffer: () => free.pop() ?? Buffer.allocUnsafe(receiveChunk),
        callback: (count, buffer) => {
          const now = file
          if (!(buffer instanceof Buffer) || now === undefined) return false
          now.writing++
          const at = now.position
          now.position += count
          if (free.length <= 1) socket.pause()
          write(now.fd, buffer, 0, count, at, (error) => {
            if (error !== null) return reject(error)
            now.writing--
            free.push(buffer)
            socket.resume()
            if (now.position === sizes[now.n] && now.writing === 0) void finish(now)
          })
          now.hash.update(buffer.subarray(0, count))
          return true
        }
      }
    })
    socket.on("error", reject)
    let file = begin()
  })

const receive = async (port: number, folder: string, sync: boolean, lanes: number, sizes: ReadonlyArray<number>) => {
  const began = performance.now()
  let given = 0
  const next = () => given < sizes.length ? given++ : undefined
  await Promise.all(Array.from({ length: lanes }, () => receiveMany(port, folder, sync, sizes, next)))
  process.send?.(performance.now() - began)
  process.disconnect()
}

if (role === "send") send(rest)
else {
  const [port, folder, sync, lanes, ...sizes] = rest
  await receive(Number(port), folder ?? ".", sync === "1", Number(lanes), sizes.map(Number))
}
