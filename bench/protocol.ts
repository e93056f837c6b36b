/** What a benchmark and the processes that it starts say to each other, over the channel that `fork` opens. */

/** How a node is set up. */
export interface NodeSetup {
  readonly name: string
  readonly role: "writer" | "reader"
  /** Everything of this node lies below it. */
  readonly folder: string
  /** The SQLite manifest that all nodes share. */
  readonly manifest: string
  readonly fsync: boolean
  /** How many files it pulls at once. */
  readonly workers: number
  /** Between two walks over the whole manifest, milliseconds; 0: none but the first. */
  readonly walkIntervalMillis: number
  /** Says of every file when it was pulled; it costs the reader a tenth of a small file. */
  readonly tellsOfEach?: boolean
  /** A folder with `ca.pem`, `node.pem` and `node.key`; without one, plain TCP. */
  readonly tls?: string
}

export type Command =
  /** Publish every file of a folder. */
  | { readonly _tag: "PublishFolder"; readonly from: string }
  /** Publish one file of random bytes. */
  | { readonly _tag: "PublishOne"; readonly path: string; readonly size: number }
  /** Begin to pull; answered once everything that the manifest has now is verified here. */
  | { readonly _tag: "Pull" }
  /** Answered once the node is ready. */
  | { readonly _tag: "Ready" }
  /** Answered once a walk behind the first readiness has ended, with how long it took. */
  | { readonly _tag: "Walked" }
  | { readonly _tag: "Stats" }

/** Times in milliseconds; `began` and `ended` since 1970, with fractions, comparable between processes. */
export interface Answer {
  readonly millis: number
  readonly began: number
  readonly ended: number
  readonly stats: NodeStats
}

export interface NodeStats {
  /** Resident memory at its highest so far, bytes. */
  readonly peakRss: number
  readonly pulled: number
  readonly attempts: number
  readonly failed: number
  /** Bytes of the files pulled, by the peer that sent the last of each. */
  readonly from: Readonly<Record<string, number>>
  /** The longest time that the event loop was blocked, milliseconds. */
  readonly longestBlock: number
}

export interface ToNode {
  readonly id: number
  readonly command: Command
}

export type FromNode =
  /** The graph stands. `millis`: since the process began. */
  | { readonly _tag: "Started"; readonly millis: number }
  | { readonly _tag: "Answer"; readonly id: number; readonly answer: Answer }
  | { readonly _tag: "Failed"; readonly id: number; readonly message: string }
  /** A file is verified here since `at`, milliseconds since 1970 with fractions. */
  | { readonly _tag: "Pulled"; readonly path: string; readonly at: number }
