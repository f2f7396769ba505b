import type { components } from './openapi.ts'

/** The service's problem document (RFC 9457). Its `item` counts within one request. */
export type Problem = Partial<components['schemas']['Problem']> & { title: string }

/** Any failure that this package throws itself. */
export class NativetokError extends Error {
  override name = 'NativetokError'
}

/** The service refused a request or failed at it, and said why. */
export class ProblemError extends NativetokError {
  override name = 'ProblemError'
  /** The HTTP status. */
  readonly status: number
  readonly problem: Problem
  /** Index in the caller's list of the image or row at fault, if one item is at fault. */
  readonly item: number | undefined

  constructor(status: number, problem: Problem, item?: number) {
    const where = item === undefined ? '' : ` (item ${item} of the list)`
    super(`${status} ${problem.title}: ${problem.detail ?? ''}${where}`)
    this.status = status
    this.problem = problem
    this.item = item
  }

  /** The stable name of the kind of problem, as in `urn:nativetok:problem:undecodable-image`. */
  get type(): string {
    return this.problem.type ?? 'about:blank'
  }
}

/** The service now has another model than before, whose tokens mean something else. Connect again. */
export class ModelChangedError extends NativetokError {
  override name = 'ModelChangedError'
}

/** The service could not be reached, or broke off, for longer than the client's patience. */
export class UnreachableError extends NativetokError {
  override name = 'UnreachableError'
}
