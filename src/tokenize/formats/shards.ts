import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { DataSet } from './format.ts'

/** Shards of one folder, numbered from 0 with as many digits as `digits`. */
export interface ShardNames {
  before: string
  digits: number
  after: string
}

export function shardName({ before, digits, after }: ShardNames, shard: number): string {
  return `${before}${String(shard).padStart(digits, '0')}${after}`
}

/** Removes the shards of a folder for whose numbers `which` holds. */
export async function removeShards(
  folder: string,
  names: ShardNames,
  which: (shard: number) => boolean,
): Promise<void> {
  const { before, digits, after } = names
  for (const name of await readdir(folder)) {
    if (!name.startsWith(before) || !name.endsWith(after)) continue
    const number = name.slice(before.length, name.length - after.length)
    if (/^\d+$/.test(number) && number.length >= digits && which(Number(number))) await rm(join(folder, name))
  }
}

/** Where the row after `rows` rows goes, and whether that shard has rows already. */
export function place(rows: number, { shardSize }: DataSet): { shard: number; begun: boolean } {
  return { shard: Math.floor(rows / shardSize), begun: rows % shardSize > 0 }
}
