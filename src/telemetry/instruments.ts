/** What metrics are made of: counters with a few values of each label, or one for each peer; gauges and histograms. */
import { Effect, Metric, Record, Schema } from "effect"
import { NodeId } from "../ports/FileEntry.ts"

/** The name of a metric of this node, in the registry. */
export const named = (name: string) => `file_replication_${name}`

export const gauge = (name: string, description: string) => Metric.gauge(named(name), { description })

export const histogram = (name: string, description: string, boundaries: ReadonlyArray<number>) =>
  Metric.histogram(named(name), { description, boundaries })

/** `NoPeer` becomes `no_peer`, as labels are written. */
const lowerCase = (tag: string) => tag.replaceAll(/([a-z])([A-Z])/g, "$1_$2").toLowerCase()

/** A counter for each of a few values of each label. */
export const counters = <const Labels extends Readonly<Record<string, string>>>(
  name: string,
  description: string,
  all: ReadonlyArray<Labels>
) => {
  const made = new Map(all.map((attributes) => [
    Object.values(attributes).join(" "),
    Metric.counter(named(name), {
      description,
      incremental: true,
      attributes: Record.map(attributes, lowerCase)
    })
  ]))
  return {
    all: [...made.values()],
    add: (labels: Labels, count = 1): Effect.Effect<void> => {
      const counter = made.get(Object.values(labels).join(" "))
      return counter === undefined ? Effect.void : Metric.update(counter, count)
    }
  }
}

export const counter = (name: string, description: string) => counters(name, description, [{}])

/** Peers with a label of their own. */
export const manyPeers = 64

/** Not valid as node ids, so no peer can be called so. */
export const otherPeers = "(other)"
export const severalPeers = "(several)"

const peers = new Set<string>([otherPeers, severalPeers])

const isNodeId = Schema.is(NodeId)

const peerLabel = (peer: string): string => {
  if (peers.has(peer)) return peer
  if (peers.size >= manyPeers + 2 || !isNodeId(peer)) return otherPeers
  peers.add(peer)
  return peer
}

/** A counter for each peer. */
export const peerCounter = (name: string, description: string) => {
  const made = new Map<string, Metric.Counter<number>>()
  const of = (peer: string) => {
    const label = peerLabel(peer)
    const known = made.get(label)
    if (known !== undefined) return known
    const fresh = Metric.counter(named(name), { description, incremental: true, attributes: { peer: label } })
    made.set(label, fresh)
    return fresh
  }
  return { of, add: (peer: string, count = 1): Effect.Effect<void> => Metric.update(of(peer), count) }
}
