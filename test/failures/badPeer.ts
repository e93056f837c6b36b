/**
 * A peer that misbehaves as told: a process of its own that knows nothing of our code. It checks no MAC, and takes one
 * request a connection.
 *
 * Its argument is a JSON list of behaviours, one for each request; the last one goes for all that follow. It prints a
 * line for the port that it listens on, one for each request before it answers, and all requests so far whenever a line
 * comes on its standard input. It ends with that.
 */
import { createServer, type Socket } from "node:net"
import { createInterface } from "node:readline"
import { type Behaviour, bytesOf, type Told } from "./behaviours.ts"

const behaviours: ReadonlyArray<Behaviour> = JSON.parse(process.argv[2] ?? "[]")
const requests: Array<{ readonly path: string; readonly offset: number }> = []

const say = (line: Told): void => void process.stdout.write(`${JSON.stringify(line)}\n`)

const fetchFile = 0x20
const fetchFileAck = 0x21

const ack = (fields: object): Buffer => {
  const json = Buffer.from(JSON.stringify(fields))
  const head = Buffer.alloc(5)
  head.writeUInt32BE(json.length + 1)
  head.writeUInt8(fetchFileAck, 4)
  return Buffer.concat([head, json])
}

const behave = (socket: Socket, behaviour: Behaviour, path: string, offset: number): void => {
  if (behaviour.what === "hang up") return void socket.destroy()
  if (behaviour.what === "refuse") {
    return void socket.end(ack({ status: "error", sha256: "", size_bytes: 0, ...behaviour.fields }))
  }
  const file = behaviour.files[path]
  if (file === undefined) return behave(socket, { what: "refuse", fields: { code: "not_found" } }, path, offset)
  const { seed, sha256, size } = file
  socket.write(
    ack({ status: "ok", size_bytes: size - offset, sha256, ...(offset === 0 ? {} : { byte_offset: offset }) })
  )
  socket.write(bytesOf(seed, size).subarray(offset, Math.min(size, offset + (behaviour.count ?? size))))
  if (behaviour.afterwards !== "stall") socket.end()
}

const server = createServer((socket) => {
  let received = Buffer.alloc(0)
  const onData = (chunk: Buffer): void => {
    received = Buffer.concat([received, chunk])
    if (received.length < 5 || received.length < 4 + received.readUInt32BE(0)) return
    if (received.readUInt8(4) !== fetchFile) return void socket.destroy()
    socket.off("data", onData)
    socket.resume()
    const { byte_offset: offset = 0, path } = JSON.parse(received.subarray(5, 4 + received.readUInt32BE(0)).toString())
    const behaviour = behaviours[Math.min(requests.length, behaviours.length - 1)]
    requests.push({ path, offset })
    say({ path, offset })
    if (behaviour !== undefined) behave(socket, behaviour, path, offset)
  }
  socket.on("data", onData)
  // Whoever gives up on this peer is welcome to.
  socket.on("error", () => undefined)
})

server.listen(0, "127.0.0.1", () => {
  const address = server.address()
  if (address !== null && typeof address === "object") say({ port: address.port })
})

createInterface({ input: process.stdin }).on("line", () => say({ requests })).on("close", () => process.exit())
