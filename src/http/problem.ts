import { EngineFailedError, QueueFullError } from '../inference/inference.ts'

/** Every way in which a request can fail. The key is the stable part of the problem's `type`. */
const kinds = {
  malformed: [400, 'Malformed request'],
  unauthorized: [401, 'API key missing or wrong'],
  'not-found': [404, 'No such resource'],
  'method-not-allowed': [405, 'Method not allowed'],
  'not-acceptable': [406, 'No acceptable answer'],
  'other-model': [409, 'Tokens of another model'],
  'too-many-bytes': [413, 'Too many bytes'],
  'too-many-pixels': [413, 'Too many pixels'],
  'too-many-images': [413, 'Too many images'],
  'unsupported-type': [415, 'Unsupported type'],
  'undecodable-image': [422, 'Undecodable image'],
  'invalid-tokens': [422, 'Invalid tokens'],
  'rate-limited': [429, 'Too many requests'],
  'headers-too-large': [431, 'Headers too large'],
  internal: [500, 'Internal error'],
  'engine-failed': [500, 'Engine failed'],
  overloaded: [503, 'Queue full'],
  draining: [503, 'Not ready'],
  deadline: [504, 'Deadline exceeded'],
} as const satisfies Record<string, readonly [number, string]>

export type ProblemKind = keyof typeof kinds

/** Where in a request the fault lies. */
export interface Place {
  /** Index of the image or row. */
  item?: number
  /** Index of the token in its row. */
  position?: number
}

/** The failure of a request, as in RFC 9457. `message` is its `detail`: what was wrong with which item. */
export class Problem extends Error {
  readonly kind: ProblemKind
  readonly place: Place

  constructor(kind: ProblemKind, detail: string, place: Place = {}, cause?: unknown) {
    super(detail, { cause })
    this.kind = kind
    this.place = place
  }

  get status(): number {
    return kinds[this.kind][0]
  }

  /** The body of the answer. */
  body(requestId: string) {
    const [status, title] = kinds[this.kind]
    return { type: `urn:nativetok:problem:${this.kind}`, title, status, detail: this.message, requestId, ...this.place }
  }
}

/** The client has disconnected: nobody will read the answer. */
export class ClientGone extends Error {
  constructor() {
    super('the client closed the connection')
  }
}

/** What the client is told about any error. The message of an unknown error stays in the log. */
export function toProblem(error: unknown): Problem {
  if (error instanceof Problem) return error
  if (error instanceof QueueFullError) return new Problem('overloaded', error.message, {}, error)
  if (error instanceof EngineFailedError) return new Problem('engine-failed', error.message, {}, error)
  if (error instanceof Error && 'statusCode' in error) {
    if (error.statusCode === 404) return new Problem('not-found', error.message, {}, error)
    if (error.statusCode === 413) return new Problem('too-many-bytes', error.message, {}, error)
    if (error.statusCode === 415) return new Problem('unsupported-type', error.message, {}, error)
    if (typeof error.statusCode === 'number' && error.statusCode < 500) {
      return new Problem('malformed', error.message, {}, error)
    }
  }
  return new Problem('internal', 'the server failed; its log has the cause under this request ID', {}, error)
}
