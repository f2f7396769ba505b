/** What every output format offers: a writer that goes on after a kill, and a reader of what was written. */

import { OptionsError } from '../errors.ts'

/** What a format has to know of the data set before the first row. */
export interface DataSet {
  /** Tokens per view, 1..65,535. */
  length: number
  /** Views per image: 1, 2 (image, mirrored) or 10 (ten crops). */
  views: number
  /** The image's size in pixels, as the model takes it. */
  imageSize: number
  /** Ids are 0..codebookSize-1, at most 65,536 of them. */
  codebookSize: number
  /** Whether every row has a label. */
  labels: boolean
  /** Class names by label, in order; absent where they are not known. */
  classes?: readonly string[]
  /** Images per shard, in formats that have shards. */
  shardSize: number
}

/** One image's tokens. */
export interface Row {
  /** Position among the images written: 0, 1, ... without gaps. */
  number: number
  /**
   * Key of the image in its source: the path without its suffix, a tar's key, a Parquet row's key or number. Unique, but
   * for tars and Parquet.
   */
  key: string
  /** 0..2,147,483,647; undefined exactly where the data set has no labels. */
  label: number | undefined
  /** `views` sequences of `length` ids, one after the other. */
  tokens: Uint16Array
}

/** The largest id and the largest label that a row can have. */
export const MOST_ID = 2 ** 16 - 1
export const MOST_LABEL = 2 ** 31 - 1

/** The folder in an output for what is there only until it is finished. */
export const WORK = '.tokenize'

/** Where an output stands: JSON that `open` takes back. */
export type Mark = { [name: string]: number | string }

/** A file of a finished output, or a folder of them where there is one file per image. */
export interface OutputFile {
  /** Relative to the output's folder, with `/` between parts; a folder ends in `/`. */
  path: string
  bytes: number
  /** Hex digest of the bytes; of a folder, of its listing (see `describe`). */
  sha256: string
  /** Number of files, for a folder. */
  files?: number
  /** Number of images, for a shard. */
  rows?: number
}

export interface Format {
  name: 'llamagen' | 'randar' | 'jsonl' | 'webdataset' | 'parquet' | 'npy'
  /** Goes up when files of the same data set would look different. */
  version: number
  /** @throws OptionsError with one sentence if the data set cannot be written so (randar without labels, for example) */
  check(dataSet: DataSet): void
  /**
   * Opens an output folder, which exists, at the start or where `mark` says. What was written after `mark` is removed,
   * also what a run wrote that was killed in `finish`. A format may keep files of its own in the folder WORK; whoever
   * opens the writer removes WORK after `finish`, once nothing will be resumed.
   *
   * @throws FormatError if the output is shorter than `mark` says
   */
  open(out: string, dataSet: DataSet, mark: Mark | undefined): Promise<Writer>
  /**
   * Reads a finished output of `rows` rows in order.
   *
   * @throws FormatError with one sentence that names the file, at the first place where it is not as the format says
   */
  read(out: string, dataSet: DataSet, rows: number): AsyncIterable<Row>
}

/** One call at a time: each waits for the one before. After a failure (a full disk) only `abort` may follow. */
export interface Writer {
  /** Rows in order. */
  write(rows: readonly Row[]): Promise<void>
  /** Makes every row written so far durable (fsync of files and folders) and says where the output stands. */
  commit(): Promise<Mark>
  /** Finishes the output (headers, last shard) durably; where it is killed, `open` at the last mark takes it back. */
  finish(): Promise<OutputFile[]>
  /** Closes files without finishing. */
  abort(): Promise<void>
}

/** An output is not as its format says: `message` names the file and what is wrong. */
export class FormatError extends Error {}

/** For `catch` where a file of an output is opened: says by its name that it is missing. */
export function missing(name: string): (error: NodeJS.ErrnoException) => never {
  return (error) => {
    throw error.code === 'ENOENT' ? new FormatError(`${name} is missing`) : error
  }
}

/** @throws OptionsError if the data set has no labels, which the loaders of the format need */
export function needLabels(dataSet: DataSet, format: Format['name']): void {
  if (dataSet.labels) return
  throw new OptionsError(`--format ${format} needs labels, and the input has none: choose npy, parquet or webdataset`)
}
