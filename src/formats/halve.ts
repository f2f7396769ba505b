/** An image of 8-bit RGB. */
export interface Pixels {
  /** uint8 `[height, width, 3]`. */
  data: Uint8Array
  width: number
  height: number
}

/**
 * Half an image in each direction, rounded down, by Pillow's box filter: an odd side is squeezed. Every pixel counts in
 * exactly one of the result: a mean of two, or of three where a side is odd, first along rows and then along columns.
 */
export function halve({ data, width, height }: Pixels): Pixels {
  const [columns, rows] = [startsOf(width), startsOf(height)]
  const half = { width: columns.length - 1, height: rows.length - 1 }
  const to = new Uint8Array(half.width * half.height * 3)
  const sums = new Uint16Array(half.width * 3)
  for (let y = 0; y < half.height; y++) {
    const [top, bottom] = [rows[y] as number, rows[y + 1] as number]
    sums.fill(0)
    for (let row = top; row < bottom; row++)
      addMeans(data.subarray(row * width * 3, (row + 1) * width * 3), columns, sums)
    const start = y * half.width * 3
    const count = bottom - top
    for (let i = 0; i < sums.length; i++) to[start + i] = mean(sums[i] as number, count)
  }
  return { data: to, ...half }
}

/** Where the pixels of each half one begin, and where the last ones end. */
function startsOf(side: number): Uint32Array {
  const half = Math.floor(side / 2)
  return Uint32Array.from({ length: half + 1 }, (_, i) => Math.floor((i * side) / half + 0.5))
}

/** Adds the means of a row's neighbours to `sums`. */
function addMeans(row: Uint8Array, starts: Uint32Array, sums: Uint16Array): void {
  for (let x = 0; x + 1 < starts.length; x++) {
    const from = (starts[x] as number) * 3
    const count = (starts[x + 1] as number) - (starts[x] as number)
    for (let channel = 0; channel < 3; channel++) {
      const at = from + channel
      let sum = (row[at] as number) + (row[at + 3] as number)
      if (count > 2) sum += row[at + 6] as number
      sums[x * 3 + channel] = (sums[x * 3 + channel] as number) + mean(sum, count)
    }
  }
}

function mean(sum: number, count: number): number {
  return count === 2 ? (sum + 1) >> 1 : Math.floor(sum / count + 0.5)
}
