/** `file-replication node`: one node as a process, until a signal or until whoever supervises it leaves. */
import { Console, Context, Effect, Layer, Option } from "effect"
import { Command, Flag } from "effect/cli"
import { HttpServer } from "effect/http"
import * as HttpFace from "../http/HttpFace.ts"
import * as Server from "../http/server.ts"
import { FetchServer } from "../peer/FetchServer.ts"
import { addressText, Membership } from "../ports/Membership.ts"
import { layer as replicationLayer, layerPorts, Replication } from "../Replication.ts"
import { Background } from "../replication/Background.ts"
import { folders, ReplicationConfig, type Settings } from "../ReplicationConfig.ts"
import { config, configured } from "./flags.ts"
import * as Logs from "./logs.ts"
import { giveUpAfter, leaveOnSignals } from "./signals.ts"
import { supervised } from "./supervised.ts"

export interface NodeOptions {
  readonly config: Option.Option<string>
  /** Speak the protocol of `Supervision.ts` over standard input and output. */
  readonly supervised: boolean
  /** `none`: readable lines on a terminal, JSON otherwise. */
  readonly logFormat: Option.Option<Logs.LogFormat>
}

/** Its ports, and the HTTP port bound beside them: a node that can't have it does not join the cluster. */
const ports = ({ serverEnabled, serverHost: host, serverPort: port }: Settings) =>
  serverEnabled ? Layer.provideMerge(Server.layer({ host, port }), layerPorts()) : layerPorts()

export const runNode = Effect.fnUntraced(
  function*(options: NodeOptions) {
    const settings = yield* configured(options.config)
    yield* leaveOnSignals(settings.shutdownTimeoutMillis)
    return yield* Effect.gen(function*() {
      const replication = yield* Replication
      if (replication._tag === "Inactive") {
        yield* Console.error(`replication is off: ${replication.reason}; nothing to do`)
        return
      }
      const { services } = replication
      const { self } = Context.get(services, Membership)
      const { address } = Context.get(services, FetchServer)
      yield* Effect.logInfo(`node ${self.id} (${self.role}) listens on ${addressText(address)}`)
      const server = Context.getOption(services, HttpServer.HttpServer)
      if (Option.isSome(server)) {
        const face = HttpFace.layer({
          host: settings.serverHost,
          apiToken: settings.apiToken,
          stateFolder: folders(settings).state,
          maxFileBytes: settings.maxFileBytes
        })
        const http = yield* Layer.build(face).pipe(
          Effect.provide(services),
          Effect.provideService(HttpServer.HttpServer, server.value)
        )
        yield* Effect.logInfo(`it serves ${Context.get(http, HttpFace.HttpFace).url}/health and /ready`)
      }
      yield* giveUpAfter(settings.shutdownTimeoutMillis)
      const failure = Context.get(services, Background).failure
      yield* Effect.raceFirst(options.supervised ? Effect.provide(supervised, services) : Effect.never, failure)
    }).pipe(
      // This scope closes before the graph below it does.
      Effect.scoped,
      Effect.provide(replicationLayer(ports(settings)).pipe(Layer.provide(Layer.succeed(ReplicationConfig, settings)))),
      Effect.onInterrupt(() => Effect.logInfo("stopped"))
    )
  },
  (run, options) => Effect.provide(run, Logs.layer(Option.getOrUndefined(options.logFormat)))
)

export const nodeCommand = Command.make("node", {
  config,
  supervised: Flag.Boolean("supervised").pipe(
    Flag.withDescription(
      "Take commands and give reports as JSON lines over standard input and output, and leave with it"
    ),
    Flag.withDefault(false)
  ),
  logFormat: Flag.Literals("log-format", ["text", "json"]).pipe(
    Flag.withDescription(
      "Readable lines or one JSON object a line; without it, lines on a terminal and JSON otherwise"
    ),
    Flag.optional
  )
}, runNode).pipe(Command.withDescription("Run a node until it is told to stop"))
