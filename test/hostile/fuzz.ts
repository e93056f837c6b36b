/**
 * Ten million inputs that are almost right, for a night.
 *
 *     npm run fuzz                   FUZZ_INPUTS=10000000 FUZZ_SEED=… are its settings
 */
import { Console, Effect, Random } from "effect"
import { makeRandom } from "./random.ts"
import { fuzzServer } from "./server.ts"
import { fuzz, targets } from "./targets.ts"

/** Of every thousand inputs. Those over a socket cost a thousand times as much. */
const shares: Record<string, number> = { frame: 400, message: 150, path: 445, server: 5 }

/** So many at a time, so that the numbers of a long run can be seen. */
const rounds = 20

/** Behind so many rounds the process is as large as it gets, but for this, MiB. */
const warmUp = 5
const mayGrow = 200

const program = Effect.gen(function*() {
  const count = Number(process.env["FUZZ_INPUTS"] ?? 10_000_000)
  const given = process.env["FUZZ_SEED"]
  const first = given === undefined ? yield* Random.nextIntBetween(0, 2 ** 31) : Number(given)
  let settled = Infinity
  for (let round = 0; round < rounds; round++) {
    const seed = first + round
    const memory = process.memoryUsage.rss() / 2 ** 20
    yield* Console.log(`round ${round + 1} of ${rounds}, FUZZ_SEED=${seed}, ${Math.round(memory)} MiB`)
    if (round === warmUp) settled = memory
    if (memory > settled + mayGrow) return yield* Effect.die(new Error(`it has grown by over ${mayGrow} MiB`))
    const share = (name: string) => Math.ceil((count * (shares[name] ?? 0)) / 1000 / rounds)
    for (const target of targets) fuzz(target, makeRandom(seed), seed, share(target.name))
    yield* Effect.scoped(fuzzServer(makeRandom(seed), seed, share("server")))
  }
  yield* Console.log(`${count} inputs, none of which did any harm`)
})

Effect.runPromise(program).then(
  () => process.exit(0),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`)
    process.exit(1)
  }
)
