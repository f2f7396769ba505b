import { type Chromaticity, type Primaries, srgbPrimaries, type Transfer } from './icc.ts'

const d65: Chromaticity = [0.3127, 0.329]
const c: Chromaticity = [0.31, 0.316]
const smpte170m: Primaries = { white: d65, red: [0.63, 0.34], green: [0.31, 0.595], blue: [0.155, 0.07] }

/** Primaries by their code in ITU-T H.273, table 2. Code 2 is "unspecified", which is treated as sRGB. */
const primaries: Record<number, Primaries> = {
  1: srgbPrimaries,
  2: srgbPrimaries,
  4: { white: c, red: [0.67, 0.33], green: [0.21, 0.71], blue: [0.14, 0.08] },
  5: { white: d65, red: [0.64, 0.33], green: [0.29, 0.6], blue: [0.15, 0.06] },
  6: smpte170m,
  7: smpte170m,
  8: { white: c, red: [0.681, 0.319], green: [0.243, 0.692], blue: [0.145, 0.049] },
  9: { white: d65, red: [0.708, 0.292], green: [0.17, 0.797], blue: [0.131, 0.046] },
  11: { white: [0.314, 0.351], red: [0.68, 0.32], green: [0.265, 0.69], blue: [0.15, 0.06] },
  12: { white: d65, red: [0.68, 0.32], green: [0.265, 0.69], blue: [0.15, 0.06] },
  22: { white: d65, red: [0.63, 0.34], green: [0.295, 0.605], blue: [0.155, 0.077] },
}

/**
 * Transfer characteristics by their code in ITU-T H.273, table 3. Those of BT.709 and its relatives (1, 6, 14, 15) count as
 * sRGB's curve, as in browsers: writers put them into files whose values are sRGB.
 */
const transfers: Record<number, Transfer> = {
  ...{ 1: 'srgb', 2: 'srgb', 6: 'srgb', 13: 'srgb', 14: 'srgb', 15: 'srgb' },
  ...{ 4: { gamma: 2.2 }, 5: { gamma: 2.8 }, 8: { gamma: 1 } },
}

const highDynamicRange: Record<number, string> = { 16: 'PQ', 18: 'HLG' }

/** A colour space from its code points, or the name of what is not supported. */
export function colourOf(
  primariesCode: number,
  transferCode: number,
): { primaries: Primaries; transfer: Transfer } | string {
  const hdr = highDynamicRange[transferCode]
  if (hdr !== undefined) return `high dynamic range (${hdr})`
  const chosen = primaries[primariesCode]
  if (chosen === undefined) return `colour primaries ${primariesCode} of ITU-T H.273`
  const transfer = transfers[transferCode]
  if (transfer === undefined) return `transfer characteristics ${transferCode} of ITU-T H.273`
  return { primaries: chosen, transfer }
}

export function isSrgb(colour: { primaries: Primaries; transfer: Transfer }): boolean {
  return colour.primaries === srgbPrimaries && colour.transfer === 'srgb'
}
