/** How much of this node its peers may take: connections, and bodies sent at once. */

export interface Admission {
  /** Takes a place for a connection; `undefined` when there is none. The call that it gives frees the place, once. */
  readonly connect: (remoteAddress: string) => (() => void) | undefined
  /** Takes a place for sending a body. */
  readonly serve: () => (() => void) | undefined
}

/**
 * One address other than this machine's own gets at most half of the connections: whoever holds them open from one
 * place does not keep the others out. IPv6 addresses with the same first 64 bits are one, for one machine has them all.
 */
export const make = (limits: { readonly maxConnections: number; readonly maxServes: number }): Admission => {
  const connections = places(limits.maxConnections)
  const serves = places(limits.maxServes)
  const share = Math.ceil(limits.maxConnections / 2)
  const byAddress = new Map<string, number>()

  const connect: Admission["connect"] = (remoteAddress) => {
    const place = placeOf(remoteAddress)
    const count = byAddress.get(place) ?? 0
    if (count >= share && !isLoopback(remoteAddress)) return undefined
    const free = connections.take()
    if (free === undefined) return undefined
    byAddress.set(place, count + 1)
    return () => {
      free()
      const left = (byAddress.get(place) ?? 0) - 1
      if (left > 0) byAddress.set(place, left)
      else byAddress.delete(place)
    }
  }

  return { connect, serve: serves.take }
}

const places = (limit: number) => {
  let taken = 0
  return {
    take: (): (() => void) | undefined => {
      if (taken >= limit) return undefined
      taken++
      return () => {
        taken--
      }
    }
  }
}

/** An IPv4 address as it is, in either form; of an IPv6 address the first 64 bits. */
const placeOf = (address: string): string => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped !== undefined) return mapped
  if (!address.includes(":")) return address
  const [head = [], tail = []] = address.replace(/%.*/, "").split("::").map((part) =>
    part.split(":").filter((group) => group !== "")
  )
  const zeros = Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => "0")
  return [...head, ...zeros, ...tail].slice(0, 4).join(":")
}

const isLoopback = (address: string): boolean => /^(?:::ffff:)?127\./.test(address) || address === "::1"
