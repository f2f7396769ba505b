import { readdir, rm } from 'node:fs/promises'
import { join } from 'node:path'

/** Shards of one folder, numbered from 0 with as many digits as `digits`. */
export interface ShardNames {
  before: string
  digits: number
  after: string
}

export function shardName({ before, digits, after }: ShardNames, shard: number): string {
  return `${before}${String(shard).padStart(digits, '0')}${after}`
}

/** The numbers of the shards in a folder, which need not exist. */
export async function shardsIn(folder: string, { before, digits, after }: ShardNames): Promise<number[]> {
  const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ENOENT') throw error
    return []
  })
  return names
    .filter((name) => name.startsWith(before) && name.endsWith(after))
    .map((name) => name.slice(before.length, name.length - after.length))
    .filter((number) => /^\d+$/.test(number) && number.length >= digits)
    .map(Number)
}

/** Removes the shards for which `which` holds. */
export async function removeShards(
  folder: string,
  names: ShardNames,
  which: (shard: number) => boolean,
): Promise<void> {
  for (const shard of await shardsIn(folder, names)) {
    if (which(shard)) await rm(join(folder, shardName(names, shard)))
  }
}
