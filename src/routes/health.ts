import type { RouteHandlerMethod } from 'fastify'
import type { components } from '../http/openapi.d.ts'
import { Problem } from '../http/problem.ts'
import type { Services } from '../services.ts'

type Health = components['schemas']['Health']

/** `GET /health/live`. */
export const live: RouteHandlerMethod = async () => ({ status: 'live' }) satisfies Health

/** `GET /health/ready`. */
export function ready(services: Services): RouteHandlerMethod {
  return async () => {
    if (services.draining) throw new Problem('draining', 'the server is draining')
    if (!services.inference.ready) throw new Problem('draining', 'no engine is ready')
    return { status: 'ready' } satisfies Health
  }
}
