/** Lists of what waits in which what was registered just now goes first. */

/** Puts an item behind those that wait, a live one before all that are not. */
export const enterLiveFirst = <A extends { readonly live: boolean }>(waiting: Array<A>, item: A): void => {
  const late = item.live ? waiting.findIndex(({ live }) => !live) : -1
  if (late === -1) waiting.push(item)
  else waiting.splice(late, 0, item)
}
