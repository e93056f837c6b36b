/**
 * A client of etcd's version 3 API: keys, transactions, watches and leases, on any of several members.
 *
 * A call that gets no answer is asked again, at the next member, until `patience` has passed: whoever writes must
 * therefore write so that the same again does no harm. A watch stays with its member; when that falls silent the
 * stream fails, and the next one begins at another.
 */
import { Context, Duration, Effect, Layer, Random, Redacted, Schedule, type Scope, Stream } from "effect"
import * as Channel from "./channel.ts"
import { EtcdError } from "./EtcdError.ts"
import * as Messages from "./messages.ts"

export interface Options {
  /** `host:port`, `http://host:port` or `https://host:port`, one for each member. */
  readonly endpoints: ReadonlyArray<string>
  readonly tls?: Channel.Tls
  readonly user?: { readonly name: string; readonly password: Redacted.Redacted }
  /** How long one member may take for one answer. 3 s unless told. */
  readonly deadline?: Duration.Input
  /** How long a call is asked again before it fails. 8 s unless told. */
  readonly patience?: Duration.Input
  /** How long a watch may be silent before its member is asked for a sign. 3.5 s unless told. */
  readonly silence?: Duration.Input
}

/** What a watch delivers: what happened, whole fragments at a time, in the order of the revisions. */
export interface Watched {
  readonly events: ReadonlyArray<Messages.Event>
  /**
   * Whether everything up to and with the last event's revision is here. Without it the last revision's events may go
   * on in the next one; those of the earlier revisions are complete all the same.
   */
  readonly complete: boolean
}

export interface Watch {
  /** Of the answer that began it: from now on nothing is missed, whatever is read elsewhere. */
  readonly header: Messages.Header
  readonly changes: Stream.Stream<Watched, EtcdError>
}

export interface MemberStatus extends Messages.Status {
  readonly endpoint: string
}

export class EtcdClient extends Context.Service<EtcdClient, {
  /** Linearizable unless the range says otherwise. */
  readonly range: (range: Messages.Range) => Effect.Effect<Messages.RangeAnswer, EtcdError>
  readonly put: (put: Messages.Put) => Effect.Effect<Messages.Header, EtcdError>
  /** When an answer is lost it is sent again, so its comparisons must fail once it has been applied. */
  readonly txn: (txn: Messages.Txn) => Effect.Effect<Messages.TxnAnswer, EtcdError>
  /**
   * Everything that happens to the keys of a range from a revision on, until the scope closes. Fails `Compacted` when
   * that revision is no longer kept, `Unreachable` when the member goes or gives no sign of life; then ask again, from
   * behind the last complete revision.
   */
  readonly watch: (options: {
    readonly key: string
    readonly rangeEnd: string
    readonly startRevision: number
  }) => Effect.Effect<Watch, EtcdError, Scope.Scope>
  /** A lease of so many seconds. */
  readonly grant: (ttlSeconds: number) => Effect.Effect<Messages.Lease, EtcdError>
  /** Prolongs a lease and gives the seconds that it has; 0 when it has lapsed. */
  readonly keepAlive: (lease: bigint) => Effect.Effect<number, EtcdError>
  /** Ends a lease and removes its keys. `Rejected` when it has lapsed before. */
  readonly revoke: (lease: bigint) => Effect.Effect<void, EtcdError>
  /** What each member says of itself, or why it says nothing. Each is asked once. */
  readonly status: Effect.Effect<ReadonlyArray<MemberStatus | EtcdError>>
}>()("file-replication/EtcdClient") {}

const method = <A>(path: string, read: (bytes: Uint8Array) => A): Channel.Method<A> => ({
  path: `/etcdserverpb.${path}`,
  read
})

const methods = {
  range: method("KV/Range", Messages.readRange),
  put: method("KV/Put", Messages.readHeaderOnly),
  txn: method("KV/Txn", Messages.readTxn),
  watch: method("Watch/Watch", Messages.readWatch),
  grant: method("Lease/LeaseGrant", Messages.readLease),
  keepAlive: method("Lease/LeaseKeepAlive", Messages.readLease),
  revoke: method("Lease/LeaseRevoke", Messages.readHeaderOnly),
  status: method("Maintenance/Status", Messages.readStatus),
  authenticate: method("Auth/Authenticate", Messages.readToken)
}

export const layer = (options: Options): Layer.Layer<EtcdClient, EtcdError> => Layer.effect(EtcdClient, make(options))

export const make = Effect.fnUntraced(function*(
  options: Options
): Effect.fn.Return<EtcdClient["Service"], EtcdError, Scope.Scope> {
  const deadline = Duration.fromInputUnsafe(options.deadline ?? "3 seconds")
  const silence = Duration.fromInputUnsafe(options.silence ?? "3.5 seconds")
  const again = Schedule.min([Schedule.exponential("30 millis"), Schedule.spaced("500 millis")]).pipe(
    Schedule.jittered,
    Schedule.upTo({ duration: Duration.fromInputUnsafe(options.patience ?? "8 seconds") })
  )

  const secure = options.tls !== undefined || options.endpoints.some((endpoint) => endpoint.startsWith("https://"))
  const channels: ReadonlyArray<Channel.Channel> = yield* Effect.forEach(
    options.endpoints,
    (endpoint) => Channel.open(endpoint.replace(/^https?:\/\//, ""), secure ? options.tls ?? {} : undefined)
  )
  // Anywhere, so that not all clients of a cluster lean on the member that is named first.
  let turn = yield* Random.nextIntBetween(0, Math.max(1, channels.length), { halfOpen: true })
  let token: string | undefined

  const current = Effect.suspend(() => {
    const channel = channels[turn % channels.length]
    return channel === undefined
      ? Effect.fail(
        new EtcdError({
          reason: "Rejected",
          operation: "connect",
          endpoint: "-",
          detail: "there is no endpoint; name at least one in cluster.etcd_endpoints"
        })
      )
      : Effect.succeed({ channel, turn })
  })

  const session = Effect.fnUntraced(function*(channel: Channel.Channel) {
    if (options.user === undefined || token !== undefined) return token
    const { name, password } = options.user
    const request = Messages.writeAuthenticate(name, Redacted.value(password))
    token = yield* channel.unary(methods.authenticate, request, undefined, deadline)
    return token
  })

  /** Runs something on one member; after a failure the next is taken, unless somebody else has gone on meanwhile. */
  const onMember = <A, R>(
    body: (channel: Channel.Channel, token: string | undefined) => Effect.Effect<A, EtcdError, R>
  ): Effect.Effect<A, EtcdError, R> =>
    Effect.flatMap(
      current,
      ({ channel, turn: mine }) =>
        Effect.flatMap(session(channel), (token) => body(channel, token)).pipe(
          Effect.tapError((error) => leave(mine, error))
        )
    )

  const leave = (mine: number, error: EtcdError) =>
    Effect.sync(() => {
      if (error.reason === "TokenExpired") token = undefined
      else if (error.reason === "Unreachable" && turn === mine) {
        turn++
        // Put back to an older backup, a member does not refuse a session that it can't know: it keeps the call waiting
        // until its log is as long as it was when the session began.
        token = undefined
      }
    })

  const isPassing = (error: EtcdError) => error.reason === "Unreachable" || error.reason === "TokenExpired"

  const call = <A>(method: Channel.Method<A>, request: Uint8Array): Effect.Effect<A, EtcdError> =>
    onMember((channel, token) => channel.unary(method, request, token, deadline)).pipe(
      Effect.retry({ schedule: again, while: isPassing })
    )

  const watch = Effect.fnUntraced(function*(range: { key: string; rangeEnd: string; startRevision: number }) {
    const { channel, turn: mine } = yield* current
    const fallenSilent = new EtcdError({
      reason: "Unreachable",
      operation: "Watch",
      endpoint: channel.endpoint,
      detail: "no sign of life"
    })
    const stream = yield* session(channel).pipe(
      Effect.flatMap((token) => channel.duplex(methods.watch, token)),
      Effect.tapError((error) => leave(mine, error))
    )
    stream.send(Messages.writeWatch(range))

    const answer = (patience: Duration.Duration) => Effect.timeoutOption(stream.next, patience)

    /** The next answer; a member that is silent is asked for a sign, and given up when it gives none. */
    const next = Effect.gen(function*() {
      const soon = yield* answer(silence)
      if (soon._tag === "Some") return soon.value
      stream.send(Messages.watchProgress)
      const late = yield* answer(deadline)
      return late._tag === "Some" ? late.value : yield* fallenSilent
    }).pipe(
      Effect.flatMap((answer): Effect.Effect<Messages.WatchAnswer, EtcdError> =>
        answer.canceled ? Effect.fail(canceled(channel.endpoint, answer)) : Effect.succeed(answer)
      ),
      Effect.tapError((error) => leave(mine, error))
    )

    const created = yield* next
    return {
      header: created.header,
      changes: Stream.fromEffectRepeat(next).pipe(
        Stream.filter(({ events }) => events.length > 0),
        Stream.map(({ events, fragment }) => ({ events, complete: !fragment }))
      )
    }
  })

  const client = EtcdClient.of({
    range: (range) => call(methods.range, Messages.writeRange(range)),
    put: (put) => call(methods.put, Messages.writePut(put)),
    txn: (txn) => call(methods.txn, Messages.writeTxn(txn)),
    watch: (range) => watch(range),
    grant: (ttlSeconds) => call(methods.grant, Messages.writeLeaseGrant(ttlSeconds)),
    // A stream in etcd's API; one question and one answer do, and are asked elsewhere like any other call.
    keepAlive: (lease) =>
      onMember(Effect.fnUntraced(function*(channel, token) {
        const stream = yield* channel.duplex(methods.keepAlive, token)
        stream.send(Messages.writeLeaseId(lease))
        const answer = yield* Effect.timeoutOption(stream.next, deadline)
        if (answer._tag === "Some") return answer.value.ttl
        return yield* new EtcdError({
          reason: "Unreachable",
          operation: "LeaseKeepAlive",
          endpoint: channel.endpoint,
          detail: "no answer in time"
        })
      }, Effect.scoped)).pipe(Effect.retry({ schedule: again, while: isPassing })),
    revoke: (lease) => Effect.asVoid(call(methods.revoke, Messages.writeLeaseId(lease))),
    status: Effect.forEach(channels, (channel) =>
      session(channel).pipe(
        Effect.flatMap((token) => channel.unary(methods.status, new Uint8Array(0), token, deadline)),
        Effect.match({
          onFailure: (error): MemberStatus | EtcdError => error,
          onSuccess: (status) => ({ ...status, endpoint: channel.endpoint })
        })
      ), { concurrency: "unbounded" })
  })
  return client
})

/** A member ends a watch with a sentence, or with the revision up to which it keeps nothing. */
const canceled = (endpoint: string, answer: Messages.WatchAnswer): EtcdError => {
  const { cancelReason: detail, compactRevision } = answer
  const error = (reason: EtcdError["reason"], detail: string) =>
    new EtcdError({ reason, operation: "Watch", endpoint, detail })
  if (compactRevision !== 0) {
    return new EtcdError({
      reason: "Compacted",
      operation: "Watch",
      endpoint,
      detail: `the events before revision ${compactRevision} are no longer kept`,
      compactedTo: compactRevision
    })
  }
  if (/permission denied/i.test(detail)) return error("Denied", detail)
  if (/invalid auth token/.test(detail)) return error("TokenExpired", detail)
  return error("Unreachable", detail === "" ? "the member has ended the watch" : detail)
}
