/** What is measured. Each case gives the lines of the table that it fills, with the target that it is held against. */
import { Console, Effect, type Scope } from "effect"
import { execFileSync } from "node:child_process"
import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import * as Figures from "./figures.ts"
import { clean, type Node, type ProcessFailed, rawCeiling, rsyncDaemon, startNode } from "./processes.ts"
import { seed } from "./seed.ts"
import * as Work from "./work.ts"

export interface Line {
  readonly case: string
  readonly what: string
  readonly figure: string
  /** `""` where a line is for comparison only. */
  readonly target: string
  readonly met: boolean | undefined
  /** Everything that was measured, for machines. */
  readonly values: Readonly<Record<string, ReadonlyArray<number>>>
}

export interface Settings {
  /** A folder of its own on the disk that is measured. */
  readonly scratch: string
  readonly runs: number
  readonly short: boolean
}

type Case = (settings: Settings) => Effect.Effect<ReadonlyArray<Line>, ProcessFailed, Scope.Scope>

/**
 * Small files of a copy stay until the whole run has ended: a filesystem may look at each number of a file that was
 * removed within the last minutes before it gives a new one, which makes creating files up to thirty times slower.
 */
const removed = (folder: string, fileBytes: number): Effect.Effect<void> =>
  fileBytes < Work.MiB ? Effect.void : clean(folder)

/**
 * A writer, and fresh readers of it. The files of `publish` are published by an earlier process of the writer, which
 * gives its memory at its highest, bytes: the writer's own is then of what it serves alone.
 */
const cluster = Effect.fnUntraced(function*(
  settings: Settings,
  options: {
    readonly fsync: boolean
    readonly tls?: string
    readonly name: string
    readonly publish?: string
    /** Length of the files; large unless told. */
    readonly fileBytes?: number
  }
) {
  const home = join(settings.scratch, options.name)
  const base = {
    manifest: join(home, "manifest.db"),
    fsync: options.fsync,
    workers: 4,
    walkIntervalMillis: 0
  }
  const tls = options.tls === undefined ? {} : { tls: options.tls }
  mkdirSync(home, { recursive: true })
  const setup = { ...base, ...tls, name: "writer", role: "writer", folder: join(home, "writer") } as const
  const { publish } = options
  const publishing = publish === undefined ? 0 : yield* Effect.scoped(
    Effect.flatMap(startNode(setup), (node) => node.ask({ _tag: "PublishFolder", from: publish }))
  ).pipe(Effect.map(({ stats }) => stats.peakRss))
  const writer = yield* startNode(setup)
  let born = 0
  /** Starts a fresh reader and uses it. */
  const withReader = <A>(use: (reader: Node) => Effect.Effect<A, ProcessFailed>) =>
    Effect.suspend(() => {
      const name = `reader-${born++}`
      const folder = join(home, name)
      return Effect.scoped(
        Effect.flatMap(startNode({ ...base, ...tls, name, role: "reader", folder }), use)
      ).pipe(Effect.ensuring(removed(folder, options.fileBytes ?? Infinity)))
    })
  return { home, writer, publishing, withReader, base, tls }
})

const pull = (reader: Node) => reader.ask({ _tag: "Pull" })

interface Contender {
  readonly name: string
  readonly run: Effect.Effect<number, ProcessFailed>
}

/** Runs contenders by turns, so that what befalls the machine befalls all of them. The first round warms up. */
const alternate = Effect.fnUntraced(function*(contenders: ReadonlyArray<Contender>, runs: number) {
  const times = new Map<string, Array<number>>()
  for (let round = 0; round <= runs; round++) {
    for (const { name, run } of contenders) {
      const millis = yield* run
      yield* Console.error(`    ${round === 0 ? "warm-up" : `run ${round}`}  ${name}: ${Figures.seconds(millis)}`)
      if (round > 0) times.set(name, [...times.get(name) ?? [], millis])
    }
  }
  return (name: string): ReadonlyArray<number> => times.get(name) ?? []
})

const compared = (
  id: string,
  what: string,
  ours: ReadonlyArray<number>,
  other: ReadonlyArray<number>,
  /** Our speed relative to the other's must be at least this; `undefined`: for comparison only. */
  atLeast: number | undefined
): Line => {
  const speed = Figures.ratios(other, ours)
  return {
    case: id,
    what,
    figure: `${Figures.seconds(Figures.figure(ours).median)} against ${Figures.seconds(Figures.figure(other).median)}: `
      + Figures.spread(speed, (value) => value.toFixed(2)),
    target: atLeast === undefined ? "" : `>= ${atLeast.toFixed(2)}`,
    met: atLeast === undefined ? undefined : speed.median >= atLeast,
    values: { ours, other }
  }
}

const limited = (id: string, what: string, value: number, limit: number, show: (value: number) => string): Line => ({
  case: id,
  what,
  figure: show(value),
  target: `< ${show(limit)}`,
  met: value < limit,
  values: { value: [value] }
})

/** Copies the same files by a node, by `rsync`, and by the raw ceiling, with and without fsync. */
const copies = (id: string, count: number, size: number, targets: {
  /** Of the raw ceiling, with fsync; `undefined`: for comparison only. */
  readonly raw: number | undefined
  readonly rsyncUnsynced: number
  readonly memory?: boolean
}): Case =>
  Effect.fnUntraced(function*(settings) {
    const work = Work.make(join(settings.scratch, `${id}-source`), count, size)
    const lines: Array<Line> = []
    for (const fsync of [true, false]) {
      const { home, publishing, withReader, writer } = yield* cluster(settings, {
        fsync,
        name: `${id}-${fsync ? "synced" : "unsynced"}`,
        publish: work.folder,
        fileBytes: size
      })
      const rsync = yield* rsyncDaemon(work.folder, settings.scratch)
      let born = 0
      /** Copies into a fresh folder. */
      const into = <A, E>(copy: (folder: string) => Effect.Effect<A, E>) =>
        Effect.suspend(() => {
          const target = join(home, `copy-${born++}`)
          return Effect.ensuring(copy(target), removed(target, size))
        })
      let peak = 0
      const contenders: Array<Contender> = [
        {
          name: "ours",
          run: withReader((reader) =>
            Effect.map(pull(reader), ({ millis, stats }) => {
              peak = Math.max(peak, stats.peakRss)
              return millis
            })
          )
        },
        { name: "rsync", run: into((target) => rsync(target, { fsync })) }
      ]
      const raw = yield* rawCeiling({
        files: work.files,
        sizes: work.files.map(() => size),
        fsync,
        lanes: Math.min(count, 4)
      })
      contenders.push({ name: "raw", run: into(raw) })
      const times = yield* alternate(contenders, settings.runs)
      const how = fsync ? "with fsync" : "without fsync"
      lines.push(compared(
        id,
        `rsync -W${fsync ? " --fsync" : ""}, ${how}`,
        times("ours"),
        times("rsync"),
        fsync ? 1 : targets.rsyncUnsynced
      ))
      lines.push(
        compared(id, `the raw ceiling, ${how}`, times("ours"), times("raw"), fsync ? targets.raw : undefined)
      )
      if (targets.memory === true && fsync) {
        const { stats } = yield* writer.ask({ _tag: "Stats" })
        lines.push(limited("h", `memory of the puller in ${id}`, peak, 200e6, Figures.mebibytes))
        lines.push(limited("h", `memory of the server in ${id}`, stats.peakRss, 200e6, Figures.mebibytes))
        lines.push({
          ...limited("h", `memory while ${id} is published`, publishing, 200e6, Figures.mebibytes),
          target: "",
          met: undefined
        })
      }
    }
    yield* clean(work.folder)
    return lines
  }, Effect.scoped)

/** A node that holds everything it could pull. */
const holder = (home: string) => ({
  name: "writer",
  role: "writer",
  folder: join(home, "writer"),
  manifest: join(home, "manifest.db"),
  fsync: false,
  workers: 4
} as const)

/** Many small files that are all held: a restart, and a walk. */
const held: Case = Effect.fnUntraced(function*(settings) {
  const count = settings.short ? 20_000 : 100_000
  const work = Work.make(join(settings.scratch, "d-source"), count, 100)
  const home = join(settings.scratch, "d")
  mkdirSync(home, { recursive: true })
  const base = holder(home)
  yield* Effect.scoped(Effect.gen(function*() {
    const writer = yield* startNode({ ...base, walkIntervalMillis: 0 })
    yield* writer.ask({ _tag: "PublishFolder", from: work.folder })
  }))
  const starts: Array<number> = []
  const walks: Array<number> = []
  const blocks: Array<number> = []
  for (let run = 0; run < settings.runs; run++) {
    yield* Effect.scoped(Effect.gen(function*() {
      const node = yield* startNode({ ...base, walkIntervalMillis: 1000 })
      const ready = yield* node.ask({ _tag: "Ready" })
      starts.push(node.startMillis + ready.millis)
      const walked = yield* node.ask({ _tag: "Walked" })
      walks.push(walked.millis)
      blocks.push(walked.stats.longestBlock)
    }))
  }
  yield* clean(work.folder)
  const scale = 100_000 / count
  const line = (what: string, values: ReadonlyArray<number>): Line => ({
    case: "d",
    what: `${what}, ${count} files`,
    figure: Figures.spread(Figures.figure(values), Figures.seconds),
    target: `< ${Figures.seconds(2000 / scale)}`,
    met: Figures.figure(values).median < 2000 / scale,
    values: { millis: values }
  })
  return [
    line("restart until ready, the process's own start included", starts),
    line("walk of everything held", walks),
    limited("d", "longest block of the event loop meanwhile", Math.max(...blocks), 50, Figures.seconds)
  ]
}, Effect.scoped)

/** Memory with very many files held, behind a restart and a walk. */
const manyHeld: Case = Effect.fnUntraced(function*(settings) {
  const count = settings.short ? 100_000 : 1_000_000
  const home = join(settings.scratch, "h")
  const base = holder(home)
  const ready = (node: Node) => node.ask({ _tag: "Ready" })
  const empty = yield* Effect.scoped(Effect.flatMap(startNode({ ...base, walkIntervalMillis: 0 }), ready))
  yield* Console.error(`    with nothing held: ${Figures.mebibytes(empty.stats.peakRss)}`)
  yield* Effect.sync(() => seed({ ...base, walkIntervalMillis: 0 }, count))
  const restarted = yield* Effect.scoped(
    Effect.flatMap(
      startNode({ ...base, walkIntervalMillis: 1000 }),
      (node) => Effect.all({ ready: ready(node), walked: node.ask({ _tag: "Walked" }) })
    )
  )
  yield* clean(home)
  return [
    limited("h", `memory at a start with ${count} files held`, restarted.ready.stats.peakRss, 200e6, Figures.mebibytes),
    limited("h", "memory behind a walk over them", restarted.walked.stats.peakRss, 200e6, Figures.mebibytes)
  ]
}, Effect.scoped)

/** One small file at a time, from the call to publish until both readers have it verified. */
const latency: Case = Effect.fnUntraced(function*(settings) {
  const { base, home, writer } = yield* cluster(settings, { fsync: true, name: "e" })
  const readers = yield* Effect.forEach(
    ["reader-a", "reader-b"],
    (name) => startNode({ ...base, name, role: "reader", folder: join(home, name), tellsOfEach: true })
  )
  for (const reader of readers) yield* pull(reader)
  const count = settings.short ? 200 : 1000
  const whole: Array<number> = []
  const registered: Array<number> = []
  for (let n = 0; n < count; n++) {
    const path = `db/cpu/${n}.parquet`
    const { began, ended } = yield* writer.ask({ _tag: "PublishOne", path, size: 4096 })
    for (const reader of readers) yield* pull(reader)
    const last = Math.max(...readers.map(({ verifiedAt }) => verifiedAt.get(path) ?? Number.NaN))
    // The first ones are slow: nothing has been compiled yet.
    if (n < count / 10) continue
    whole.push(last - began)
    registered.push(last - ended)
  }
  const line = (what: string, values: ReadonlyArray<number>, share: number, limit: number): Line =>
    limited("e", `${what}, p${share * 100}`, Figures.percentile(values, share), limit, Figures.seconds)
  return [
    { ...line("registered until verified on two peers", registered, 0.5, 10), values: { millis: registered } },
    line("registered until verified on two peers", registered, 0.99, 50),
    { ...line("publish begun until verified on two peers", whole, 0.5, 20), target: "", met: undefined },
    { ...line("publish begun until verified on two peers", whole, 0.99, 100), target: "", met: undefined }
  ]
}, Effect.scoped)

const certificates = (folder: string): string => {
  mkdirSync(folder, { recursive: true })
  const openssl = (args: string) => execFileSync("openssl", args.split(" "), { cwd: folder, stdio: "ignore" })
  const curve = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
  openssl(`req -x509 ${curve} -keyout ca.key -out ca.pem -subj /CN=authority`)
  openssl(`req ${curve} -keyout node.key -out node.csr -subj /CN=node`)
  writeFileSync(join(folder, "extensions"), "subjectAltName=IP:127.0.0.1\n")
  openssl("x509 -req -in node.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile extensions -out node.pem")
  return folder
}

/** The same with and without mutual TLS. */
const encrypted = (what: string, count: number, size: number): Case =>
  Effect.fnUntraced(function*(settings) {
    const id = `f-${count}`
    const work = Work.make(join(settings.scratch, `${id}-source`), count, size)
    const tls = certificates(join(settings.scratch, `${id}-certificates`))
    const plain = yield* cluster(settings, { fsync: true, name: `${id}-plain`, fileBytes: size })
    const secure = yield* cluster(settings, { fsync: true, name: `${id}-tls`, tls, fileBytes: size })
    for (const { writer } of [plain, secure]) yield* writer.ask({ _tag: "PublishFolder", from: work.folder })
    const times = yield* alternate([
      { name: "tls", run: Effect.map(secure.withReader(pull), ({ millis }) => millis) },
      { name: "plain", run: Effect.map(plain.withReader(pull), ({ millis }) => millis) }
    ], settings.runs)
    yield* clean(work.folder)
    return [compared("f", `${what}: mutual TLS against plain`, times("tls"), times("plain"), 0.6)]
  }, Effect.scoped)

/** One writer, eight readers that begin at once. */
const fanOut: Case = Effect.fnUntraced(function*(settings) {
  const count = settings.short ? 16 : 64
  const work = Work.make(join(settings.scratch, "g-source"), count, 16 * Work.MiB)
  const { base, home, writer } = yield* cluster(settings, { fsync: true, name: "g" })
  yield* writer.ask({ _tag: "PublishFolder", from: work.folder })
  const walls: Array<number> = []
  const shares: Array<number> = []
  for (let run = 0; run < Math.min(settings.runs, 3); run++) {
    const folders = Array.from({ length: 8 }, (_, n) => join(home, `reader-${run}-${n}`))
    yield* Effect.scoped(Effect.gen(function*() {
      const readers = yield* Effect.forEach(
        folders,
        (folder, n) => startNode({ ...base, name: `reader-${run}-${n}`, role: "reader", folder })
      )
      const answers = yield* Effect.forEach(readers, pull, { concurrency: "unbounded" })
      walls.push(Math.max(...answers.map(({ millis }) => millis)))
      shares.push(answers.reduce((sum, { stats }) => sum + (stats.from["writer"] ?? 0), 0) / work.bytes)
    })).pipe(Effect.ensuring(Effect.forEach(folders, clean)))
  }
  yield* clean(work.folder)
  return [
    {
      case: "g",
      what: `${count} files of 16 MiB to 8 readers: wall time`,
      figure: Figures.spread(Figures.figure(walls), Figures.seconds),
      target: "",
      met: undefined,
      values: { millis: walls }
    },
    {
      case: "g",
      what: "bytes that the origin sent, times the data",
      figure: Figures.spread(Figures.figure(shares), (value) => value.toFixed(2)),
      target: "< 3",
      met: Figures.figure(shares).median < 3,
      values: { times: shares }
    }
  ]
}, Effect.scoped)

export const cases: Readonly<Record<string, { readonly title: string; readonly run: Case }>> = {
  a: {
    title: "one file of 2 GiB",
    run: (settings) =>
      copies("a", 1, settings.short ? Work.GiB : 2 * Work.GiB, { raw: 0.85, rsyncUnsynced: 1, memory: true })(settings)
  },
  b: {
    title: "8 files of 256 MiB, four workers",
    run: (settings) =>
      copies("b", 8, settings.short ? 64 * Work.MiB : 256 * Work.MiB, { raw: 0.85, rsyncUnsynced: 1 })(settings)
  },
  c: {
    title: "10,000 files of 16 KiB",
    run: (settings) =>
      copies("c", settings.short ? 2000 : 10_000, 16 * Work.KiB, { raw: undefined, rsyncUnsynced: 0.5 })(settings)
  },
  d: { title: "everything held: restart and walk", run: held },
  e: { title: "from registered to verified on two peers", run: latency },
  f: {
    title: "mutual TLS",
    run: (settings) =>
      Effect.map(
        Effect.all([
          encrypted("one large file", 1, settings.short ? 256 * Work.MiB : 2 * Work.GiB)(settings),
          encrypted("many small files", settings.short ? 1000 : 10_000, 16 * Work.KiB)(settings)
        ]),
        (lines) => lines.flat()
      )
  },
  g: { title: "one writer, eight readers", run: fanOut },
  h: { title: "memory with 1,000,000 files held", run: manyHeld }
}
