/** How slowly bytes may go over a connection, either way: whoever is slower holds what others wait for. */

export interface Pace {
  /** So many in the long run. */
  readonly bytesPerSecond: number
  /** So long they may take besides, milliseconds. */
  readonly lenientMillis: number
}

export interface Paces {
  /** Of whoever sends: he has shown the token. */
  readonly upload: Pace
  /**
   * Of whoever reads. What the system buffers, a few MiB, counts as read, so one that takes next to nothing stays for
   * some minutes.
   */
  readonly download: Pace
}

export const paces: Paces = {
  upload: { bytesPerSecond: 4 * 1024, lenientMillis: 60_000 },
  download: { bytesPerSecond: 16 * 1024, lenientMillis: 60_000 }
}

/** Pure: for how long still, in milliseconds, `bytes` that have gone in `millis` are enough; below 0 they are not. */
export const left = ({ bytesPerSecond, lenientMillis }: Pace, millis: number, bytes: number): number =>
  lenientMillis + (bytes / bytesPerSecond) * 1000 - millis
