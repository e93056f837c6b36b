/**
 * Every metric of a node, and the one function that moves each. They live in Effect's own registry, so an application
 * finds them among its own.
 *
 * Names are those of Prometheus, with their unit. A label never holds a path, and of peers only the first
 * {@link manyPeers} are told apart: whoever knows the secret can call itself by any name. A metric appears with its
 * first update; {@link seed} makes all appear at a start, so that an alert never waits for what has not happened yet.
 */
import { Clock, Effect, Metric } from "effect"
import type { Crowded, FetchError } from "../ports/FetchClient.ts"
import type { ManifestEvent } from "../ports/Manifest.ts"
import { counter, counters, gauge, histogram, named, otherPeers, peerCounter } from "./instruments.ts"

export { manyPeers, otherPeers, severalPeers } from "./instruments.ts"

// ---------------------------------------------------------------------------------------------------------------------
// Pulling
// ---------------------------------------------------------------------------------------------------------------------

/** Why a round ended without the file: the kinds of `AttemptFailed`, or a defect. */
const postponedReasons = ["NoPeer", "Mismatch", "Disk", "Peers", "Defect"] as const
export type PostponedReason = typeof postponedReasons[number]
const endings = ["Pulled", "Skipped", "Withdrawn"] as const

const pullsCounted = counters<{ readonly outcome: string; readonly reason: string }>(
  "pulls_total",
  "Files that a worker took up, by what became of them.",
  [
    ...endings.map((outcome) => ({ outcome, reason: "" })),
    ...postponedReasons.map((reason) => ({ outcome: "Postponed", reason }))
  ]
)
const attemptsCounted = counter("pull_attempts_total", "Attempts to pull a file, each of which may ask several peers.")
const retriesCounted = counter("pull_retries_total", "Attempts to pull a file that had been tried before.")

const seconds = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800]
const pullSeconds = histogram("pull_duration_seconds", "From a worker's taking up a file to its commit.", seconds)
const owedSeconds = histogram("owed_duration_seconds", "How long a file that was pulled had been owed.", [
  ...seconds,
  7200,
  43_200,
  86_400
])

/** A worker has done with a file; what was postponed is counted with its reason. */
export const finished = (outcome: typeof endings[number] | "Postponed"): Effect.Effect<void> =>
  pullsCounted.add({ outcome, reason: "" })

/** A round of attempts ended without the file. */
export const postponed = (reason: PostponedReason): Effect.Effect<void> =>
  pullsCounted.add({ outcome: "Postponed", reason })

/** Files were pulled; times in milliseconds. */
export const committed = (
  files: ReadonlyArray<{ readonly pull: number; readonly owed: number }>
): Effect.Effect<void> =>
  Effect.map(Effect.context<never>(), (context) => {
    for (const { owed, pull } of files) {
      pullSeconds.updateUnsafe(Math.max(0, pull) / 1000, context)
      owedSeconds.updateUnsafe(Math.max(0, owed) / 1000, context)
    }
  })

/** `again`: they have been tried before. */
export const attempted = (again: boolean, files = 1): Effect.Effect<void> =>
  again
    ? Effect.andThen(attemptsCounted.add({}, files), retriesCounted.add({}, files))
    : attemptsCounted.add({}, files)

// ---------------------------------------------------------------------------------------------------------------------
// Between peers
// ---------------------------------------------------------------------------------------------------------------------

const receivedBytes = peerCounter("received_bytes_total", "Bytes of files that came from each peer.")
const sentBytes = peerCounter("sent_bytes_total", "Bytes of files that were sent to each peer.")
const mismatchesCounted = peerCounter(
  "mismatches_total",
  "Wrong digests, by the peer that sent them or that has another in its manifest."
)
const failures = [
  "ChecksumMismatch",
  "FileNotOnPeer",
  "BadOffset",
  "PeerRejected",
  "PeerUnreachable",
  "Stalled",
  "ShortBody",
  "ProtocolViolation"
] as const satisfies ReadonlyArray<FetchError["_tag"]>
const failuresCounted = counters(
  "fetch_failures_total",
  "Fetches that ended without the rest of the file, by how.",
  failures.map((kind) => ({ kind }))
)
const failedPeers = peerCounter("peer_failures_total", "Fetches that ended without the rest of the file, by peer.")
const rejectionsCounted = counter(
  "rejected_by_peer_total",
  "Fetches that a peer refused because of our authentication."
)

export const received = (peer: string, bytes: number): Effect.Effect<void> => receivedBytes.add(peer, bytes)
export const sent = (peer: string, bytes: number): Effect.Effect<void> => sentBytes.add(peer, bytes)

/** Bytes or a digest that are not the manifest's. `severalPeers` when nobody sent all of them. */
export const mismatched = (peer: string): Effect.Effect<void> => mismatchesCounted.add(peer)

/** A peer did not deliver. */
export const fetchFailed = (peer: string, error: Exclude<FetchError, Crowded>): Effect.Effect<void> =>
  Effect.all([
    failuresCounted.add({ kind: error._tag }),
    failedPeers.add(peer),
    error._tag === "PeerRejected" && error.code === "auth" ? rejectionsCounted.add({}) : Effect.void
  ], { discard: true })

const authCauses = ["secret", "clock", "nonce", "replay", "certificate"] as const
export type AuthCause = typeof authCauses[number]
const authCounted = counters(
  "auth_rejections_total",
  "Messages of others that were refused, by what was wrong: the secret or cluster name, the clock, the nonce, a replay, another node's certificate.",
  authCauses.map((cause) => ({ cause }))
)

/** A message of somebody else was refused. */
export const authRejected = (cause: AuthCause): Effect.Effect<void> => authCounted.add({ cause })

const serveOutcomes = [
  "sent",
  "cut",
  "auth",
  "backend",
  "bad_offset",
  "busy",
  "crowded",
  "invalid_path",
  "manifest",
  "not_found",
  "raft"
] as const
export type ServeOutcome = typeof serveOutcomes[number]
const servesCounted = counters(
  "serves_total",
  "Requests of peers for a file: sent whole, cut short, or refused with a code.",
  serveOutcomes.map((outcome) => ({ outcome }))
)
const serving = gauge("serves_in_flight", "Bodies that are being sent.")
const connectionsOpen = gauge("connections_open", "Connections that peers have open.")
const connectionsRefused = Metric.counter(named("connections_refused_total"), {
  description: "Connections that were closed at once for want of a place.",
  incremental: true
})

export const served = (outcome: ServeOutcome, count = 1): Effect.Effect<void> => servesCounted.add({ outcome }, count)

const counted = (of: Metric.Gauge<number>) => <A, E, R>(effect: Effect.Effect<A, E, R>): Effect.Effect<A, E, R> =>
  Effect.acquireUseRelease(Metric.modify(of, 1), () => effect, () => Metric.modify(of, -1))

/** Counts a body while it is sent. */
export const whileServing = counted(serving)

/** Counts connections, without a fiber for each: there may be thousands a second. */
export const connections = Effect.map(Effect.context<never>(), (context) => ({
  opened: () => connectionsOpen.modifyUnsafe(1, context),
  closed: () => connectionsOpen.modifyUnsafe(-1, context),
  refused: () => connectionsRefused.updateUnsafe(1, context)
}))

// ---------------------------------------------------------------------------------------------------------------------
// Publishing, the manifest, the disk
// ---------------------------------------------------------------------------------------------------------------------

const registerOutcomes = ["registered", "Conflict", "Gone", "EntryRefused", "Unavailable"] as const
export type RegisterOutcome = typeof registerOutcomes[number]
const registrationsCounted = counters(
  "registrations_total",
  "Files of this node, by what the manifest said to them.",
  registerOutcomes.map((outcome) => ({ outcome }))
)
const registerSeconds = histogram(
  "register_duration_seconds",
  "From sealed bytes to the manifest's answer, with the wait in the queue.",
  seconds
)
const eventsCounted = counters(
  "manifest_events_total",
  "Events of the manifest that were taken.",
  [{ kind: "Put" }, { kind: "Removed" }]
)
const lostCounted = counters(
  "local_files_lost_total",
  "Verified files that were found missing or damaged on this disk.",
  [{ why: "Missing" }, { why: "Damaged" }]
)
const scrubbed = counter("scrubbed_bytes_total", "Bytes that were hashed again.")
const scrubEnded = gauge("scrub_completed_timestamp_seconds", "When every file had last been hashed again; 0: never.")
const unlinkedCounted = counter("unlinked_files_total", "Deleted files that have left this disk.")
const threadKinds = ["files", "database"] as const
export type ThreadKind = typeof threadKinds[number]
const deathsCounted = counters(
  "thread_deaths_total",
  "Threads that died and were replaced, by what they are for.",
  threadKinds.map((what) => ({ what }))
)

/** Runs a registration and counts it, with its time. */
export const registering = <A, E extends { readonly _tag: string }, R>(
  effect: Effect.Effect<A, E, R>
): Effect.Effect<A, E, R> =>
  Effect.gen(function*() {
    const began = yield* Clock.currentTimeMillis
    return yield* effect.pipe(
      Effect.tap(() => registrationsCounted.add({ outcome: "registered" })),
      Effect.tapError(({ _tag }) =>
        Effect.forEach(
          registerOutcomes.filter((outcome) => outcome === _tag),
          (outcome) => registrationsCounted.add({ outcome }),
          { discard: true }
        )
      ),
      Effect.ensuring(
        Effect.flatMap(
          Clock.currentTimeMillis,
          (now) => Metric.update(registerSeconds, Math.max(0, now - began) / 1000)
        )
      )
    )
  })

export const eventsTaken = (events: ReadonlyArray<ManifestEvent>): Effect.Effect<void> =>
  Effect.forEach(
    ["Put", "Removed"] as const,
    (kind) => eventsCounted.add({ kind }, events.filter(({ _tag }) => _tag === kind).length),
    { discard: true }
  )
export const localLost = (why: "Missing" | "Damaged"): Effect.Effect<void> => lostCounted.add({ why })
export const hashedAgain = (bytes: number): Effect.Effect<void> => scrubbed.add({}, bytes)
export const unlinked: Effect.Effect<void> = unlinkedCounted.add({})
export const threadDied = (what: ThreadKind): Effect.Effect<void> => deathsCounted.add({ what })

/** A scrub over everything has ended; milliseconds since 1970. */
export const scrubCompleted = (at: number): Effect.Effect<void> => Metric.update(scrubEnded, at / 1000)

// ---------------------------------------------------------------------------------------------------------------------
// Where the node stands: read when somebody asks, and now and then
// ---------------------------------------------------------------------------------------------------------------------

/** What is computed from the state, not counted as it happens. */
export const state = {
  ready: gauge("ready", "1 when this node holds everything, else 0."),
  owedFiles: gauge("owed_files", "Files that must still arrive: the lag in files."),
  owedBytes: gauge("owed_bytes", "Bytes that must still arrive: the lag in bytes."),
  oldestOwed: gauge("oldest_owed_seconds", "For how long the oldest owed file has been owed: the lag in time."),
  failedFiles: gauge(
    "owed_failed_files",
    "Owed files for which at least one round of attempts has ended without them."
  ),
  verifiedFiles: gauge("verified_files", "Files that are here, hashed on this disk."),
  verifiedBytes: gauge("verified_bytes", "Bytes of the files that are here."),
  unlinkingFiles: gauge("unlinking_files", "Deleted files that must still leave this disk."),
  queued: gauge("pull_queue_files", "Files that wait for a worker."),
  inFlight: gauge("pulls_in_flight", "Files that a worker has taken up."),
  paused: gauge(
    "pulling_paused",
    "1 while no new pull begins: told so, no room, or an inventory that can't be written."
  ),
  headRevision: gauge("manifest_head_revision", "The newest revision of the manifest, when it last answered."),
  cursorRevision: gauge("manifest_cursor_revision", "Up to which revision events have been taken."),
  verifiedRevision: gauge("verified_through_revision", "Up to which revision everything is here."),
  gap: gauge("watch_gap_revisions", "Revisions of the manifest whose events have not been taken yet."),
  gapSeconds: gauge(
    "watch_gap_seconds",
    "For how long a revision of the manifest has not been reached; 0: none is open."
  ),
  contact: gauge("manifest_contact_seconds", "Seconds since the manifest last answered."),
  walking: gauge("walk_running", "1 while the manifest is walked."),
  orphans: gauge("orphan_files", "Files in the folder that the manifest does not know."),
  diskFree: gauge("disk_free_bytes", "Bytes that this node may still write, beside its reserve and what is promised."),
  draining: gauge("draining", "1 while this node prepares to leave."),
  drainLeft: gauge("drain_files_left", "While it drains: files that no other node holds, when last looked at."),
  membersAlive: gauge("members_alive", "Members with a recent sign of life, this one included."),
  members: gauge("members", "Members that are known, this one included."),
  scrubInterval: gauge(
    "scrub_interval_seconds",
    "Within how long every byte is to be hashed again; 0: on demand only."
  ),
  memory: Metric.gauge("process_resident_memory_bytes", { description: "Memory of the process." }),
  started: Metric.gauge("process_start_time_seconds", { description: "When the process started, since 1970." })
}

const loopLag = histogram(
  "event_loop_lag_seconds",
  "The longest delay of the event loop, of each second.",
  [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1]
)

/** The longest delay of the event loop in the last second, in seconds. */
export const eventLoopLagged = (delay: number): Effect.Effect<void> => Metric.update(loopLag, delay)

/** Sets a gauge of {@link state}. */
export const set = (name: keyof typeof state, value: number): Effect.Effect<void> => Metric.update(state[name], value)

/** Always 1; its labels say what runs. */
const build = (labels: { readonly version: string; readonly node: string; readonly role: string }) =>
  Metric.gauge(named("build_info"), {
    description: "What runs: the version, the node and its role.",
    attributes: { ...labels, runtime: process.version }
  })

// ---------------------------------------------------------------------------------------------------------------------
// All of them
// ---------------------------------------------------------------------------------------------------------------------

const byPeer = [receivedBytes, sentBytes, mismatchesCounted, failedPeers]

const touch = <I, S>(metric: Metric.Metric<I, S>) => Effect.asVoid(Metric.value(metric))

/** Makes the metrics of a peer appear, at 0. */
export const seedPeer = (peer: string): Effect.Effect<void> =>
  Effect.forEach(byPeer, ({ of }) => touch(of(peer)), { discard: true })

/** Makes every metric appear, counters at 0. */
export const seed = (labels: Parameters<typeof build>[0]): Effect.Effect<void> =>
  Effect.all([
    ...[
      pullsCounted,
      attemptsCounted,
      retriesCounted,
      failuresCounted,
      rejectionsCounted,
      authCounted,
      servesCounted,
      registrationsCounted,
      eventsCounted,
      lostCounted,
      scrubbed,
      unlinkedCounted,
      deathsCounted
    ].flatMap(({ all }) => all.map(touch)),
    ...[pullSeconds, owedSeconds, registerSeconds, loopLag].map(touch),
    touch(connectionsRefused),
    ...[serving, connectionsOpen, scrubEnded, ...Object.values(state)].map(touch),
    seedPeer(otherPeers),
    Metric.update(build(labels), 1)
  ], { discard: true })

/** The content type of {@link render}. */
export const contentType = "text/plain; version=0.0.4; charset=utf-8"

/** Every metric of the registry, in the text format of Prometheus. */
export const render: Effect.Effect<string> = Effect.flatMap(
  // Loaded by the first who asks: a router for HTTP comes along.
  Effect.promise(() => import("effect/observability/PrometheusMetrics")),
  ({ format }) => format()
)
