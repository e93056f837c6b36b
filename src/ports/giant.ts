/**
 * Which files are so large that a small one must never wait for them. A module of its own, because threads read it that
 * know nothing of Effect.
 */

/** From this length on a file is a giant, bytes. */
export const giantBytes = 8 * 1024 * 1024

export const isGiant = (bytes: number): boolean => bytes >= giantBytes
