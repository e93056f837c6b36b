/**
 * The ceiling: a socket, SHA-256 and a file, and nothing else. No names, no checks, no framing beyond a length.
 *
 *     node raw.ts send FILE…             prints its port, then sends each file to whoever asks for it by number
 *     node raw.ts receive PORT FOLDER SYNC LANES SIZE…
 *
 * `receive` writes the files into a folder, `LANES` at once, and syncs each when `SYNC` is 1. It prints milliseconds.
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
const receiveChunk = 256 * 1024
const ring = 4

const send = (files: ReadonlyArray<string>) => {
  const server = createServer((socket) => {
    socket.on("error", () => undefined)
    socket.once("data", (asked: Buffer) => {
      const file = files[asked.readUInt32BE(0)]
      if (file !== undefined) void sendFile(file)
    })
    const sendFile = async (file: string) => {
      const fd = openSync(file, "r")
      const { size } = statSync(file)
      const buffers = Array.from({ length: 3 }, () => Buffer.allocUnsafe(sendChunk))
      const done: Array<Promise<void>> = []
      for (let at = 0, n = 0; at < size; at += sendChunk, n++) {
        const slot = n % buffers.length
        await done[slot]
        const buffer = buffers[slot] ?? Buffer.allocUnsafe(sendChunk)
        const { bytesRead } = await readAsync(fd, buffer, 0, sendChunk, at)
        done[slot] = new Promise((resolve) => socket.write(buffer.subarray(0, bytesRead), () => resolve()))
      }
      await Promise.all(done)
      closeSync(fd)
      socket.end()
    }
  })
  server.listen(0, "127.0.0.1", () => {
    const address = server.address()
    process.send?.(typeof address === "object" && address !== null ? address.port : 0)
  })
  process.once("disconnect", () => process.exit(0))
}

const receiveOne = (port: number, n: number, folder: string, sync: boolean, size: number) =>
  new Promise<void>((resolve, reject) => {
    const staged = join(folder, `${n}.part`)
    const fd = openSync(staged, "w")
    const hash = createHash("sha256")
    const free = Array.from({ length: ring }, () => Buffer.allocUnsafe(receiveChunk))
    let position = 0
    let writing = 0
    const finish = async () => {
      hash.digest("hex")
      if (sync) await fsyncAsync(fd)
      closeSync(fd)
      renameSync(staged, join(folder, `${n}`))
      resolve()
    }
    const socket = connect({
      port,
      host: "127.0.0.1",
      onread: {
        buffer: () => free.pop() ?? Buffer.allocUnsafe(receiveChunk),
        callback: (count, buffer) => {
          if (!(buffer instanceof Buffer)) return false
          writing++
          const at = position
          position += count
          if (free.length <= 1) socket.pause()
          write(fd, buffer, 0, count, at, (error) => {
            if (error !== null) return reject(error)
            writing--
            free.push(buffer)
            socket.resume()
            if (position === size && writing === 0) void finish()
          })
          hash.update(buffer.subarray(0, count))
          return true
        }
      }
    })
    socket.on("error", reject)
    const asked = Buffer.alloc(4)
    asked.writeUInt32BE(n)
    socket.write(asked)
  })

const receive = async (port: number, folder: string, sync: boolean, lanes: number, sizes: ReadonlyArray<number>) => {
  const began = performance.now()
  let next = 0
  const lane = async () => {
    for (let n = next++; n < sizes.length; n = next++) await receiveOne(port, n, folder, sync, sizes[n] ?? 0)
  }
  await Promise.all(Array.from({ length: lanes }, lane))
  process.send?.(performance.now() - began)
  process.disconnect()
}

if (role === "send") send(rest)
else {
  const [port, folder, sync, lanes, ...sizes] = rest
  await receive(Number(port), folder ?? ".", sync === "1", Number(lanes), sizes.map(Number))
}
