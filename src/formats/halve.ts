/** An image of 8-bit RGB. */
export interface Pixels {
  /** uint8 `[height, width, 3]`. */
  data: Uint8Array
  width: number
  height: number
}

/** The two or three neighbours that each pixel of a half side is the mean of: the first one, and how many. */
interface Windows {
  starts: Uint32Array
  counts: Uint8Array
}

/**
 * Half an image in each direction, rounded down, with Pillow's box filter: an odd side is squeezed, so that some pixels are means of
 * three. Rows come first, then columns, and each is rounded.
 */
export function halve({ data, width, height }: Pixels): Pixels {
  const [columns, rows] = [windowsOf(width), windowsOf(height)]
  const half = { width: columns.starts.length, height: rows.starts.length }
  const to = new Uint8Array(half.width * half.height * 3)
  const sums = new Uint16Array(half.width * 3)
  for (let y = 0; y < half.height; y++) {
    const [top, count] = [rows.starts[y] as number, rows.counts[y] as number]
    sums.fill(0)
    for (let row = top; row < top + count; row++) {
      addMeans(data.subarray(row * width * 3, (row + 1) * width * 3), columns, sums)
    }
    const start = y * half.width * 3
    for (let i = 0; i < sums.length; i++) to[start + i] = mean(sums[i] as number, count)
  }
  return { data: to, ...half }
}

/**
 * A pixel counts if its centre is in the window, whose ends Pillow computes so: in another order, rounding would put the centre of
 * the pixel in the middle into another window.
 */
function windowsOf(side: number): Windows {
  const length = Math.floor(side / 2)
  const scale = side / length
  const windows = { starts: new Uint32Array(length), counts: new Uint8Array(length) }
  for (let i = 0; i < length; i++) {
    const [centre, reach] = [(i + 0.5) * scale, 0.5 * scale]
    const [first, end] = [Math.floor(centre - reach + 0.5), Math.min(side, Math.floor(centre + reach + 0.5))]
    const inside = (pixel: number) => {
      const place = (pixel - centre + 0.5) * (1 / scale)
      return place > -0.5 && place <= 0.5
    }
    const start = inside(first) ? first : first + 1
    windows.starts[i] = start
    windows.counts[i] = (inside(end - 1) ? end : end - 1) - start
  }
  return windows
}

/** Adds the means of a row's neighbours to `sums`. */
function addMeans(row: Uint8Array, { starts, counts }: Windows, sums: Uint16Array): void {
  for (let x = 0, to = 0; x < starts.length; x++) {
    let at = (starts[x] as number) * 3
    const count = counts[x] as number
    for (const end = to + 3; to < end; to++, at++) {
      const two = (row[at] as number) + (row[at + 3] as number)
      const sum = count === 2 ? two : two + (row[at + 6] as number)
      sums[to] = (sums[to] as number) + mean(sum, count)
    }
  }
}

function mean(sum: number, count: number): number {
  return count === 2 ? (sum + 1) >> 1 : Math.floor(sum / count + 0.5)
}
