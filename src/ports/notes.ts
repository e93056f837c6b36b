/** Names of notes that an inventory and others have to agree on. */

/** A file that lies here, that this node knew or was refused, and that is registered by nobody but an operator. */
export const leftNote = (path: string): string => `left:${path}`
