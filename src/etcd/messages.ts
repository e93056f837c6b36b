/** The messages of etcd's version 3 API that are needed here, and how they are written and read. Pure. */
import { data, type Field, flag, integer, message, nested, Reader } from "./wire.ts"

/** Who answered, and how far it was: the newest revision of the whole store, whoever's keys it was. */
export interface Header {
  readonly clusterId: bigint
  readonly memberId: bigint
  readonly revision: number
}

export interface KeyValue {
  readonly key: string
  readonly value: Buffer
  readonly createRevision: number
  readonly modRevision: number
  /** 0n: on no lease. */
  readonly lease: bigint
}

/** One key, or every key from `key` up to and without `rangeEnd`. */
export interface Range {
  readonly key: string
  readonly rangeEnd?: string
  /** 0 or absent: all. `count` tells the whole number of keys all the same. */
  readonly limit?: number
  /** As of this revision; absent or 0: now. */
  readonly revision?: number
  readonly keysOnly?: boolean
  /** Answered by the member asked, from what it knows: perhaps not the newest. */
  readonly serializable?: boolean
}

export interface RangeAnswer {
  readonly header: Header
  readonly kvs: ReadonlyArray<KeyValue>
  readonly more: boolean
  readonly count: number
}

export interface Put {
  readonly key: string
  readonly value: Uint8Array | string
  readonly lease?: bigint
}

export interface Delete {
  readonly key: string
  readonly rangeEnd?: string
}

/**
 * What must hold for a transaction to succeed. With `rangeEnd` it must hold for every key of the range; a range without
 * keys compares as one that was never made, so `CREATE = 0` says that a range is empty.
 */
export interface Compare {
  readonly key: string
  readonly rangeEnd?: string
  readonly target: "VERSION" | "CREATE" | "MOD"
  readonly result: "EQUAL" | "GREATER" | "LESS" | "NOT_EQUAL"
  readonly value: number
}

export type Operation =
  | { readonly _tag: "Range"; readonly range: Range }
  | { readonly _tag: "Put"; readonly put: Put }
  | { readonly _tag: "Delete"; readonly delete: Delete }
  | { readonly _tag: "Txn"; readonly txn: Txn }

/** At most 128 operations, and 128 comparisons, counted along each path through nested transactions. */
export interface Txn {
  readonly compare?: ReadonlyArray<Compare>
  readonly success: ReadonlyArray<Operation>
  readonly failure?: ReadonlyArray<Operation>
}

export type OperationAnswer =
  | { readonly _tag: "Range"; readonly range: RangeAnswer }
  | { readonly _tag: "Put" }
  | { readonly _tag: "Delete"; readonly deleted: number }
  | { readonly _tag: "Txn"; readonly txn: TxnAnswer }

export interface TxnAnswer {
  readonly header: Header
  readonly succeeded: boolean
  readonly responses: ReadonlyArray<OperationAnswer>
}

export interface Event {
  readonly type: "PUT" | "DELETE"
  /** Of a deletion only the key and the revision at which it happened. */
  readonly kv: KeyValue
}

export interface WatchAnswer {
  readonly header: Header
  readonly created: boolean
  readonly canceled: boolean
  /** Not 0: what was asked for is no longer kept. */
  readonly compactRevision: number
  readonly cancelReason: string
  /** More of the same answer follows. */
  readonly fragment: boolean
  readonly events: ReadonlyArray<Event>
}

export interface Lease {
  readonly id: bigint
  /** Seconds. */
  readonly ttl: number
}

export interface Status {
  readonly header: Header
  readonly version: string
  /** Bytes of the database's file, and of them in use. */
  readonly dbSize: number
  readonly dbSizeInUse: number
  readonly leader: bigint
  /** Alarms, such as no space. */
  readonly errors: ReadonlyArray<string>
}

// -----------------------------------------------------------------------------
// Written
// -----------------------------------------------------------------------------

export const writeRange = (range: Range): Uint8Array =>
  message(
    data(1, range.key),
    data(2, range.rangeEnd ?? ""),
    integer(3, range.limit ?? 0),
    integer(4, range.revision ?? 0),
    flag(7, range.serializable ?? false),
    flag(8, range.keysOnly ?? false)
  )

export const writePut = (put: Put): Uint8Array =>
  message(data(1, put.key), data(2, put.value), integer(3, put.lease ?? 0n))

export const writeDelete = (range: Delete): Uint8Array => message(data(1, range.key), data(2, range.rangeEnd ?? ""))

const results = { EQUAL: 0, GREATER: 1, LESS: 2, NOT_EQUAL: 3 } as const
const targets = { VERSION: { number: 0, field: 4 }, CREATE: { number: 1, field: 5 }, MOD: { number: 2, field: 6 } }

const writeCompare = (compare: Compare): Uint8Array =>
  message(
    integer(1, results[compare.result]),
    integer(2, targets[compare.target].number),
    data(3, compare.key),
    integer(targets[compare.target].field, compare.value),
    data(64, compare.rangeEnd ?? "")
  )

const writeOperation = (operation: Operation): Uint8Array => {
  switch (operation._tag) {
    case "Range":
      return message(nested(1, writeRange(operation.range)))
    case "Put":
      return message(nested(2, writePut(operation.put)))
    case "Delete":
      return message(nested(3, writeDelete(operation.delete)))
    case "Txn":
      return message(nested(4, writeTxn(operation.txn)))
  }
}

export const writeTxn = (txn: Txn): Uint8Array =>
  message(
    ...(txn.compare ?? []).map((compare): Field => nested(1, writeCompare(compare))),
    ...txn.success.map((operation): Field => nested(2, writeOperation(operation))),
    ...(txn.failure ?? []).map((operation): Field => nested(3, writeOperation(operation)))
  )

export const writeWatch = (watch: { key: string; rangeEnd: string; startRevision: number }): Uint8Array =>
  message(nested(
    1,
    message(data(1, watch.key), data(2, watch.rangeEnd), integer(3, watch.startRevision), flag(8, true))
  ))

export const watchProgress: Uint8Array = message(nested(3, message()))

export const writeLeaseGrant = (ttl: number): Uint8Array => message(integer(1, ttl))

export const writeLeaseId = (id: bigint): Uint8Array => message(integer(1, id))

export const writeAuthenticate = (name: string, password: string): Uint8Array =>
  message(data(1, name), data(2, password))

// -----------------------------------------------------------------------------
// Read
// -----------------------------------------------------------------------------

const noHeader: Header = { clusterId: 0n, memberId: 0n, revision: 0 }

const readHeader = (bytes: Uint8Array): Header => {
  const reader = new Reader(bytes)
  let { clusterId, memberId, revision } = noHeader
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) clusterId = reader.identity()
    else if (field === 2) memberId = reader.identity()
    else if (field === 3) revision = reader.integer()
    else reader.skip()
  }
  return { clusterId, memberId, revision }
}

const noBytes = Buffer.alloc(0)

const readKeyValue = (bytes: Uint8Array): KeyValue => {
  const reader = new Reader(bytes)
  let key = ""
  let value: Buffer = noBytes
  let createRevision = 0
  let modRevision = 0
  let lease = 0n
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) key = reader.text()
    else if (field === 2) createRevision = reader.integer()
    else if (field === 3) modRevision = reader.integer()
    else if (field === 5) value = reader.bytes()
    else if (field === 6) lease = reader.identity()
    else reader.skip()
  }
  return { key, value, createRevision, modRevision, lease }
}

export const readRange = (bytes: Uint8Array): RangeAnswer => {
  const reader = new Reader(bytes)
  let header = noHeader
  const kvs: Array<KeyValue> = []
  let more = false
  let count = 0
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) header = readHeader(reader.bytes())
    else if (field === 2) kvs.push(readKeyValue(reader.bytes()))
    else if (field === 3) more = reader.flag()
    else if (field === 4) count = reader.integer()
    else reader.skip()
  }
  return { header, kvs, more, count }
}

/** Of an answer of which nothing but its header matters. */
export const readHeaderOnly = (bytes: Uint8Array): Header => {
  const reader = new Reader(bytes)
  let header = noHeader
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) header = readHeader(reader.bytes())
    else reader.skip()
  }
  return header
}

const readDeleted = (bytes: Uint8Array): number => {
  const reader = new Reader(bytes)
  let deleted = 0
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 2) deleted = reader.integer()
    else reader.skip()
  }
  return deleted
}

const readOperation = (bytes: Uint8Array): OperationAnswer | undefined => {
  const reader = new Reader(bytes)
  let answer: OperationAnswer | undefined
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) answer = { _tag: "Range", range: readRange(reader.bytes()) }
    else if (field === 2) {
      reader.skip()
      answer = { _tag: "Put" }
    } else if (field === 3) answer = { _tag: "Delete", deleted: readDeleted(reader.bytes()) }
    else if (field === 4) answer = { _tag: "Txn", txn: readTxn(reader.bytes()) }
    else reader.skip()
  }
  return answer
}

export const readTxn = (bytes: Uint8Array): TxnAnswer => {
  const reader = new Reader(bytes)
  let header = noHeader
  let succeeded = false
  const responses: Array<OperationAnswer> = []
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) header = readHeader(reader.bytes())
    else if (field === 2) succeeded = reader.flag()
    else if (field === 3) {
      const answer = readOperation(reader.bytes())
      if (answer !== undefined) responses.push(answer)
    } else reader.skip()
  }
  return { header, succeeded, responses }
}

const readEvent = (bytes: Uint8Array): Event => {
  const reader = new Reader(bytes)
  let type: Event["type"] = "PUT"
  let kv = readKeyValue(noBytes)
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) type = reader.integer() === 1 ? "DELETE" : "PUT"
    else if (field === 2) kv = readKeyValue(reader.bytes())
    else reader.skip()
  }
  return { type, kv }
}

export const readWatch = (bytes: Uint8Array): WatchAnswer => {
  const reader = new Reader(bytes)
  const events: Array<Event> = []
  let header = noHeader
  let created = false
  let canceled = false
  let compactRevision = 0
  let cancelReason = ""
  let fragment = false
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) header = readHeader(reader.bytes())
    else if (field === 3) created = reader.flag()
    else if (field === 4) canceled = reader.flag()
    else if (field === 5) compactRevision = reader.integer()
    else if (field === 6) cancelReason = reader.text()
    else if (field === 7) fragment = reader.flag()
    else if (field === 11) events.push(readEvent(reader.bytes()))
    else reader.skip()
  }
  return { header, created, canceled, compactRevision, cancelReason, fragment, events }
}

/** Of a grant and of a keepalive alike. */
export const readLease = (bytes: Uint8Array): Lease => {
  const reader = new Reader(bytes)
  let id = 0n
  let ttl = 0
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 2) id = reader.identity()
    else if (field === 3) ttl = reader.integer()
    else reader.skip()
  }
  return { id, ttl }
}

export const readStatus = (bytes: Uint8Array): Status => {
  const reader = new Reader(bytes)
  const errors: Array<string> = []
  let header = noHeader
  let version = ""
  let dbSize = 0
  let dbSizeInUse = 0
  let leader = 0n
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 1) header = readHeader(reader.bytes())
    else if (field === 2) version = reader.text()
    else if (field === 3) dbSize = reader.integer()
    else if (field === 4) leader = reader.identity()
    else if (field === 8) errors.push(reader.text())
    else if (field === 9) dbSizeInUse = reader.integer()
    else reader.skip()
  }
  return { header, version, dbSize, dbSizeInUse, leader, errors }
}

export const readToken = (bytes: Uint8Array): string => {
  const reader = new Reader(bytes)
  let token = ""
  for (let field = reader.next(); field !== 0; field = reader.next()) {
    if (field === 2) token = reader.text()
    else reader.skip()
  }
  return token
}
