/** Showing small files under their final names, many at once: threads hash, write, sync and name them. */
import { Effect, Result } from "effect"
import { dirname } from "node:path"
import { AlreadyExists, type BackendError, DigestMismatch, type Held, type Whole } from "../ports/Backend.ts"
import { Sha256 } from "../ports/FileEntry.ts"
import { tries, vanishing } from "./commit.ts"
import type { Committed } from "./fileOperations.ts"
import { refusal, unanswered } from "./fileThreads.ts"
import { isMissing, placeIn, prepare } from "./places.ts"
import type { Local } from "./staged.ts"
import { type Refused, refusedBy, toBackendError, unsafe } from "./systemCalls.ts"

type Outcome = Result.Result<Held, DigestMismatch | AlreadyExists | BackendError>

const outcomeOf = ({ bytes, path, sha256 }: Whole, answer: Committed): Outcome => {
  const failed = (cause: Refused): Outcome => Result.fail(toBackendError("commit", path)(cause))
  switch (answer._tag) {
    case "Placed":
      return Result.succeed({ sha256, size: bytes.length, mtime: answer.mtime, inode: answer.inode })
    case "Wrong":
      return Result.fail(new DigestMismatch({ path, expected: sha256, actual: Sha256.make(answer.sha256) }))
    case "Taken":
      return answer.isFile
        ? Result.fail(new AlreadyExists({ path }))
        : failed(unsafe("something that is no file stands under its final name"))
    case "Refused":
      return failed(refusedBy(answer.code, answer.detail))
  }
}

/** Gives what became of each, in their order. */
export const commitTogether = Effect.fnUntraced(function*(
  { fsync, roots, staging, threads }: Local,
  files: ReadonlyArray<Whole>
): Effect.fn.Return<ReadonlyArray<Outcome>> {
  const answers = new Map<Whole, Committed>()

  const commit = Effect.fnUntraced(function*(some: ReadonlyArray<{ readonly whole: Whole; readonly file: string }>) {
    if (some.length === 0) return
    const given = yield* threads.commit(some.map(({ file, whole: { bytes, path, sha256 } }) => ({
      bytes,
      sha256,
      staged: staging.freeName(path),
      file
    })))
    for (const [n, { whole }] of some.entries()) answers.set(whole, given[n] ?? unanswered)
  })

  const placed = files.flatMap((whole) => {
    const place = placeIn(roots, whole.path)
    if (Result.isSuccess(place)) return [{ whole, file: place.success.file }]
    answers.set(whole, refusal(place.failure))
    return []
  })
  yield* commit(placed)

  const homeless = () =>
    placed.filter(({ whole }) => {
      const answer = answers.get(whole)
      return answer?._tag === "Refused" && isMissing(answer)
    })
  for (let left = tries, some = homeless(); left > 0 && some.length > 0; left--, some = homeless()) {
    const prepared = new Map<string, Result.Result<unknown, Refused>>()
    for (const { file, whole } of some) {
      const folder = dirname(file)
      const found = prepared.get(folder) ?? (yield* Effect.result(prepare(roots, whole.path, fsync)))
      prepared.set(folder, found)
      if (Result.isFailure(found)) answers.set(whole, refusal(found.failure))
    }
    yield* commit(some.filter(({ file }) => prepared.get(dirname(file))?._tag === "Success"))
  }
  for (const { whole } of homeless()) answers.set(whole, refusal(vanishing))

  return files.map((whole) => outcomeOf(whole, answers.get(whole) ?? unanswered))
}, Effect.uninterruptible)
