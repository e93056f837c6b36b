/** How much of this node its peers may take: connections, and bodies sent at once. */
import { placeOf } from "./addresses.ts"

/** A connection's place among those that are let in. */
export interface Place {
  /** Where it comes from, as far as addresses are told apart. */
  readonly address: string
  /** Whoever is at the other end has shown the secret. */
  readonly trust: () => void
  /** Whether a request is being served. If not, the connection may have to make room. */
  readonly serves: (serving: boolean) => void
  /** Gives the place back, once. */
  readonly leave: () => void
}

export interface Admission {
  /** Takes a place for a connection; `undefined` when there is none. `close` is called if it has to make room. */
  readonly connect: (remoteAddress: string, close: () => void) => Place | undefined
  /** Takes a place for sending a body. The call that it gives frees the place, once. */
  readonly serve: () => (() => void) | undefined
}

/** What is known of an address: its connections that may have to make room, oldest first. */
interface Address {
  readonly name: string
  count: number
  /** Those that have not shown the secret yet. */
  readonly strangers: Set<Guest>
  /** Those that have, and ask for nothing now. */
  readonly idle: Set<Guest>
}

interface Guest {
  readonly address: Address
  readonly close: () => void
  here: boolean
}

const eldest = (guests: ReadonlySet<Guest>): Guest | undefined => guests.values().next().value

/**
 * While there are places, anybody gets one. When there are none, somebody makes room: the oldest stranger of the address
 * that has the most of them, or else the connection that has been idle for longest. While fewer than an eighth of the
 * places are strangers' the idle one goes first: those that come at the same moment must not put each other out before
 * they could say a word. An address that has half of all places makes the room itself. So whoever holds connections open
 * from one place, or says nothing on them, does not keep out those who do; and nobody loses a connection in the middle
 * of a request.
 */
export const make = (limits: { readonly maxConnections: number; readonly maxServes: number }): Admission => {
  const serves = places(limits.maxServes)
  const share = Math.ceil(limits.maxConnections / 2)
  const addresses = new Map<string, Address>()
  const forStrangers = Math.ceil(limits.maxConnections / 8)
  let taken = 0
  let strangers = 0

  const noStranger = (guest: Guest): void => {
    if (guest.address.strangers.delete(guest)) strangers--
  }

  const leave = (guest: Guest): void => {
    if (!guest.here) return
    guest.here = false
    const { address } = guest
    taken--
    address.count--
    noStranger(guest)
    address.idle.delete(guest)
    if (address.count === 0) addresses.delete(address.name)
  }

  const eldestOfMost = (of: (address: Address) => ReadonlySet<Guest>): Guest | undefined => {
    let most: ReadonlySet<Guest> = new Set()
    for (const address of addresses.values()) if (of(address).size > most.size) most = of(address)
    return eldest(most)
  }

  const makeRoom = (newcomer: Address): boolean => {
    const [stranger, idle, many] = newcomer.count >= share
      ? [eldest(newcomer.strangers), eldest(newcomer.idle), newcomer.strangers.size]
      : [eldestOfMost(({ strangers }) => strangers), eldestOfMost(({ idle }) => idle), strangers]
    const leaves = many < forStrangers ? idle ?? stranger : stranger ?? idle
    if (leaves === undefined) return false
    leave(leaves)
    leaves.close()
    return true
  }

  const connect: Admission["connect"] = (remoteAddress, close) => {
    const name = placeOf(remoteAddress)
    const address = addresses.get(name) ?? { name, count: 0, strangers: new Set(), idle: new Set() }
    if (taken >= limits.maxConnections && !makeRoom(address)) return undefined
    // Making room may have forgotten the address, when it had one connection only.
    addresses.set(name, address)
    const guest: Guest = { address, close, here: true }
    taken++
    address.count++
    address.strangers.add(guest)
    strangers++
    let trusted = false
    return {
      address: name,
      trust: () => {
        trusted = true
        noStranger(guest)
      },
      serves: (serving) => {
        if (!trusted || !guest.here) return
        // Behind those that have been idle for longer.
        address.idle.delete(guest)
        if (!serving) address.idle.add(guest)
      },
      leave: () => leave(guest)
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
