import { type Agent, request } from 'node:http'
import type { ImageFile } from './images.ts'

/** A prepared request. */
export interface Call {
  path: string
  type: string
  body: Buffer
  /** Images or sequences in it. */
  images: number
}

/** A complete answer: its status and body. */
export interface Answer {
  status: number
  body: Buffer
}

const key = process.env.NATIVETOK_API_KEY
export const authorization = key === undefined ? {} : { authorization: `Bearer ${key}` }

/** Sends a call to a server and reads its answer to the end. */
export function send(server: string, call: Call, agent?: Agent): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const headers = { ...authorization, 'content-type': call.type, 'content-length': call.body.length }
    const url = new URL(call.path, server)
    request(url, { method: 'POST', headers, ...(agent && { agent }) }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks) }))
      response.on('error', reject)
    })
      .on('error', reject)
      .end(call.body)
  })
}

/** One call per photo, or one multipart call per batch; a batch starts at every photo, so that all are sent equally often. */
export async function encodeCalls(photos: ImageFile[], batch: number, length?: number): Promise<Call[]> {
  const path = length === undefined ? '/encode' : `/encode?length=${length}`
  if (batch === 1) return photos.map((photo) => ({ path, ...photo, images: 1 }))
  return Promise.all(
    photos.map(async (_, first) => {
      const form = new FormData()
      for (let i = 0; i < batch; i++) {
        const photo = photos[(first + i) % photos.length] as ImageFile
        form.append('images', new Blob([new Uint8Array(photo.body)], { type: photo.type }), `${i}`)
      }
      const multipart = new Response(form)
      const type = multipart.headers.get('content-type') as string
      return { path, type, body: Buffer.from(await multipart.arrayBuffer()), images: batch }
    }),
  )
}

/** Calls that decode the tokens of `encodes`. The server computes these tokens first. */
export async function decodeCalls(server: string, encodes: Call[]): Promise<Call[]> {
  const calls: Call[] = []
  for (const encode of encodes) {
    const { status, body } = await send(server, encode)
    if (status !== 200) throw new Error(`encoding a photo to get its tokens: ${status} ${body.toString()}`)
    const { tokens } = JSON.parse(body.toString()) as { tokens: number[][] }
    calls.push(decodeCall(encode.images === 1 ? (tokens[0] as number[]) : tokens))
  }
  return calls
}

/** @param tokens one sequence, or a batch of them */
export function decodeCall(tokens: number[] | number[][]): Call {
  const body = Buffer.from(JSON.stringify({ tokens }))
  return { path: '/decode', type: 'application/json', body, images: Array.isArray(tokens[0]) ? tokens.length : 1 }
}
