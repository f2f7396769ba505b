import type { Format } from './format.ts'
import { jsonl } from './jsonl.ts'
import { llamagen } from './llamagen.ts'
import { npy } from './npy.ts'
import { parquet } from './parquet.ts'
import { randar } from './randar.ts'
import { webdataset } from './webdataset.ts'

/** The output formats by name. */
export const formats: Record<Format['name'], Format> = { llamagen, randar, jsonl, webdataset, parquet, npy }
