/** `file-replication pause | resume`: whether a running node begins new pulls. */
import { Console, Effect } from "effect"
import { Command } from "effect/cli"
import { Pulling } from "../http/answers.ts"
import { running } from "./client.ts"
import { json, type NodeFlags, nodeFlags } from "./flags.ts"

const others = (paused: ReadonlyArray<string>) => paused.filter((reason) => reason !== "operator")

const tell = Effect.fnUntraced(function*(
  what: "pause" | "resume",
  { json, ...flags }: NodeFlags & { readonly json: boolean }
) {
  const client = yield* running(flags)
  const { paused } = yield* client.call("POST", `/api/v1/cluster/${what}`, Pulling)
  const still = others(paused).length === 0
    ? ""
    : `; it pauses still because of its ${others(paused).join(" and its ")}`
  const said = what === "pause"
    ? "no new pull begins until you say resume; those in flight end"
    : `pulling is allowed again${still}`
  yield* Console.log(json ? JSON.stringify({ paused }) : said)
})

export const pauseCommand = Command.make("pause", { ...nodeFlags, json }, (flags) => tell("pause", flags)).pipe(
  Command.withDescription("Let a running node begin no new pull; it remembers over a restart")
)

export const resumeCommand = Command.make("resume", { ...nodeFlags, json }, (flags) => tell("resume", flags)).pipe(
  Command.withDescription("Let it pull again")
)
