/** CIE 1931 x and y. */
export type Chromaticity = readonly [x: number, y: number]

export interface Primaries {
  white: Chromaticity
  red: Chromaticity
  green: Chromaticity
  blue: Chromaticity
}

/** The curve from stored values to linear light: sRGB's, or value ** gamma. */
export type Transfer = 'srgb' | { gamma: number }

type Triple = [number, number, number]
type Matrix = [Triple, Triple, Triple]

const d65: Chromaticity = [0.3127, 0.329]
export const srgbPrimaries: Primaries = { white: d65, red: [0.64, 0.33], green: [0.3, 0.6], blue: [0.15, 0.06] }

/** The profile connection space's white, as the ICC specification rounds it. */
const d50: Triple = [0.9642, 1, 0.8249]
/** The Bradford matrix of the ICC specification (ICC.1:2022, annex E). */
const bradford: Matrix = [
  [0.8951, 0.2664, -0.1614],
  [-0.7502, 1.7135, 0.0367],
  [0.0389, -0.0685, 1.0296],
]

/**
 * Makes an ICC profile for a colour space that a file names in another way, so that libvips can convert from it.
 *
 * @returns undefined if the primaries do not form a colour space: no triangle, or a white point without light
 */
export function profileOf(primaries: Primaries, transfer: Transfer, grey: boolean): Buffer | undefined {
  const columns = adaptedPrimaries(primaries)
  if (columns === undefined) return undefined
  const curve = curveOf(transfer)
  const elements: [tag: string, data: Buffer][] = [
    ['desc', text('from the image file')],
    ['cprt', text('none')],
    ['wtpt', xyz(d50)],
  ]
  if (grey) elements.push(['kTRC', curve])
  else {
    const [red, green, blue] = columns
    elements.push(['rXYZ', xyz(red)], ['gXYZ', xyz(green)], ['bXYZ', xyz(blue)])
    elements.push(['rTRC', curve], ['gTRC', curve], ['bTRC', curve])
  }
  return assemble(elements, grey ? 'GRAY' : 'RGB ')
}

/** XYZ of each primary at full strength, adapted to D50. */
function adaptedPrimaries({ white, red, green, blue }: Primaries): Matrix | undefined {
  if ([white, red, green, blue].some(([, y]) => !(y > 0))) return undefined
  const light = ([x, y]: Chromaticity): Triple => [x / y, 1, (1 - x - y) / y]
  const inverse = invert(transpose([light(red), light(green), light(blue)]))
  if (inverse === undefined) return undefined
  const whiteXyz = light(white)
  const strength = apply(inverse, whiteXyz)
  const cones = apply(bradford, whiteXyz)
  const back = invert(bradford)
  if (back === undefined || cones.some((cone) => !(cone > 0))) return undefined
  const target = apply(bradford, d50)
  const adapt = (color: Triple) => {
    const [l, m, s] = apply(bradford, color)
    return apply(back, [(l * target[0]) / cones[0], (m * target[1]) / cones[1], (s * target[2]) / cones[2]])
  }
  const column = (primary: Chromaticity, times: number) => {
    const [x, y, z] = light(primary)
    return adapt([x * times, y * times, z * times])
  }
  const columns: Matrix = [column(red, strength[0]), column(green, strength[1]), column(blue, strength[2])]
  return columns.flat().every((value) => Math.abs(value) < 32_768) ? columns : undefined
}

function curveOf(transfer: Transfer): Buffer {
  // A parametric curve of function type 0 (a power), or 3 (IEC 61966-2-1).
  const values = transfer === 'srgb' ? [2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045] : [transfer.gamma]
  const data = Buffer.alloc(12 + values.length * 4)
  data.write('para', 'latin1')
  data.writeUInt16BE(transfer === 'srgb' ? 3 : 0, 8)
  values.forEach((value, i) => {
    data.writeInt32BE(fixed(value), 12 + i * 4)
  })
  return data
}

function xyz(values: Triple): Buffer {
  const data = Buffer.alloc(20)
  data.write('XYZ ', 'latin1')
  values.forEach((value, i) => {
    data.writeInt32BE(fixed(value), 8 + i * 4)
  })
  return data
}

/** A `mluc` element of one record in English. */
function text(value: string): Buffer {
  const data = Buffer.alloc(28 + value.length * 2)
  data.write('mluc', 'latin1')
  data.writeUInt32BE(1, 8)
  data.writeUInt32BE(12, 12)
  data.write('enUS', 16, 'latin1')
  data.writeUInt32BE(value.length * 2, 20)
  data.writeUInt32BE(28, 24)
  data.write(value, 28, 'utf16le')
  data.subarray(28).swap16()
  return data
}

const fixed = (value: number) => Math.round(value * 65_536)

function assemble(elements: [tag: string, data: Buffer][], space: 'RGB ' | 'GRAY'): Buffer {
  const head = Buffer.alloc(128 + 4 + elements.length * 12)
  const bodies: Buffer[] = []
  let end = head.length
  elements.forEach(([tag, data], i) => {
    const at = 132 + i * 12
    head.write(tag, at, 'latin1')
    head.writeUInt32BE(end, at + 4)
    head.writeUInt32BE(data.length, at + 8)
    const padded = Buffer.concat([data, Buffer.alloc(-data.length & 3)])
    bodies.push(padded)
    end += padded.length
  })
  head.writeUInt32BE(end, 0)
  head.writeUInt32BE(0x04300000, 8) // version 4.3
  head.write(`mntr${space}XYZ `, 12, 'latin1')
  head.writeUInt16BE(2000, 24)
  head.writeUInt16BE(1, 26)
  head.writeUInt16BE(1, 28)
  head.write('acsp', 36, 'latin1')
  d50.forEach((value, i) => {
    head.writeInt32BE(fixed(value), 68 + i * 4)
  })
  head.writeUInt32BE(elements.length, 128)
  return Buffer.concat([head, ...bodies])
}

function apply(matrix: Matrix, [x, y, z]: Triple): Triple {
  const [a, b, c] = matrix.map((row) => row[0] * x + row[1] * y + row[2] * z)
  return [a ?? 0, b ?? 0, c ?? 0]
}

function transpose([a, b, c]: Matrix): Matrix {
  return [
    [a[0], b[0], c[0]],
    [a[1], b[1], c[1]],
    [a[2], b[2], c[2]],
  ]
}

function invert([[a, b, c], [d, e, f], [g, h, i]]: Matrix): Matrix | undefined {
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g)
  if (!(Math.abs(determinant) > 1e-9)) return undefined
  const cofactors: Matrix = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ]
  const scale = (row: Triple): Triple => [row[0] / determinant, row[1] / determinant, row[2] / determinant]
  return [scale(cofactors[0]), scale(cofactors[1]), scale(cofactors[2])]
}
