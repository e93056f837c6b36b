/** Lists of what waits in which what was registered just now goes first. */

/** Puts an item behind those that wait, a live one before all that are not. */
export const enterLiveFirst = <A extends { readonly live: boolean }>(waiting: Array<A>, item: A): void => {
  if (!item.live) return void waiting.push(item)
  // From the end: where all are live, which is when they are many at once, the last of them is found at once.
  waiting.splice(waiting.findLastIndex(({ live }) => live) + 1, 0, item)
}
