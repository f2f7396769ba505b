import sharp from 'sharp'
import { type Call, decodeCall, encodeCalls, send } from '../tools/calls.ts'
import type { ImageFile } from '../tools/images.ts'

/** A server's answers for some images: the tokens of each, and the pixels decoded from them. */
export interface Answers {
  tokens: number[][]
  pictures: Buffer[]
}

/** How well a contestant's answers agree with the service's. */
export interface Agreement {
  /** Share of equal tokens. */
  tokens: number
  /** Mean difference of the worst picture's values, out of 255. Absent if there were no pictures. */
  difference?: number
}

// Another build of ONNX Runtime may round differently, which can flip a near tie and every token after it.
const LEAST_TOKENS = 0.99
const MOST_DIFFERENCE = 0.5

/** Requests the tokens of `images`, and the pictures of `sequences`, by default of the same tokens. */
export async function answersOf(url: string, images: ImageFile[], sequences?: number[][]): Promise<Answers> {
  const tokens: number[][] = []
  for (const call of await encodeCalls(images, 1)) {
    const body = await answerTo(url, call)
    tokens.push(...(JSON.parse(body.toString()) as { tokens: number[][] }).tokens)
  }
  const pictures: Buffer[] = []
  for (const row of sequences ?? tokens) {
    const body = await answerTo(url, decodeCall(row))
    pictures.push(await sharp(body).removeAlpha().raw().toBuffer())
  }
  return { tokens, pictures }
}

async function answerTo(url: string, call: Call): Promise<Buffer> {
  const { status, body } = await send(url, call)
  if (status !== 200) throw new Error(`${call.path} was answered with ${status}: ${body.toString('utf8', 0, 200)}`)
  return body
}

/** Compares answers with the expected ones, as far as there are both. */
export function compare(expected: Answers, found: Answers): Agreement {
  const pairs = expected.tokens.flatMap((row, i) => row.map((id, j) => found.tokens[i]?.[j] === id))
  const differences = found.pictures.map((picture, i) => meanDifference(picture, expected.pictures[i] as Buffer))
  return {
    tokens: pairs.filter(Boolean).length / pairs.length,
    ...(differences.length > 0 && { difference: Math.max(...differences) }),
  }
}

/** Whether a contestant with this agreement computes the same thing. */
export function isSame({ tokens, difference = 0 }: Agreement): boolean {
  return tokens >= LEAST_TOKENS && difference <= MOST_DIFFERENCE
}

function meanDifference(a: Buffer, b: Buffer): number {
  if (a.length !== b.length) return Number.POSITIVE_INFINITY
  return a.reduce((sum, value, i) => sum + Math.abs(value - (b[i] as number)), 0) / a.length
}
