/** Maps that keep so many keys at most. */

/** Sets a key, which is the newest then. The oldest gives way where there would be more than `limit`. */
export const setWithin = <K, V>(map: Map<K, V>, key: K, value: V, limit: number): void => {
  map.delete(key)
  const oldest = map.size < limit ? undefined : map.keys().next()
  if (oldest?.done === false) map.delete(oldest.value)
  map.set(key, value)
}
