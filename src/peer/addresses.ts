/** Which addresses are told apart. */

/**
 * An IPv4 address as it is, in either form; of an IPv6 address the first 64 bits, for one machine has all addresses that
 * begin with the same.
 */
export const placeOf = (address: string): string => {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address)?.[1]
  if (mapped !== undefined) return mapped
  if (!address.includes(":")) return address
  const [head = [], tail = []] = address.replace(/%.*/, "").split("::").map((part) =>
    part.split(":").filter((group) => group !== "")
  )
  const zeros = Array.from({ length: Math.max(0, 8 - head.length - tail.length) }, () => "0")
  return [...head, ...zeros, ...tail].slice(0, 4).join(":")
}
