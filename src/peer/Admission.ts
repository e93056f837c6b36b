/** How much of this node its peers may take: connections, and bodies sent at once. */

export interface Admission {
  /** Takes a place for a connection; `undefined` when there is none. The call that it gives frees the place, once. */
  readonly connect: (remoteAddress: string) => (() => void) | undefined
  /** Takes a place for sending a body. */
  readonly serve: () => (() => void) | undefined
}

/**
 * One address other than this machine's own gets at most half of the connections: whoever holds them open from one
 * place does not keep the others out.
 */
export const make = (limits: { readonly maxConnections: number; readonly maxServes: number }): Admission => {
  const connections = places(limits.maxConnections)
  const serves = places(limits.maxServes)
  const share = Math.ceil(limits.maxConnections / 2)
  const byAddress = new Map<string, number>()

  const connect: Admission["connect"] = (remoteAddress) => {
    const count = byAddress.get(remoteAddress) ?? 0
    if (count >= share && !isLoopback(remoteAddress)) return undefined
    const free = connections.take()
    if (free === undefined) return undefined
    byAddress.set(remoteAddress, count + 1)
    return () => {
      free()
      const left = (byAddress.get(remoteAddress) ?? 0) - 1
      if (left > 0) byAddress.set(remoteAddress, left)
      else byAddress.delete(remoteAddress)
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

const isLoopback = (address: string): boolean => /^(?:::ffff:)?127\./.test(address) || address === "::1"
