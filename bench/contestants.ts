import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { serviceCommand } from '../tools/service.ts'

/** Where a contestant runs, and with which bundle and cores. */
export interface Place {
  port: number
  /** The bundle's folder. */
  model: string
  /** Number of cores to use. */
  cores: number
}

/** A server that answers `POST /encode`, `POST /decode` and `GET /health/live`. */
export interface Contestant {
  name: string
  title: string
  /** Installs its dependencies. */
  prepare?(): Promise<void>
  /** The command line that starts it. */
  command(place: Place): string[]
}

const peers = join(import.meta.dirname, 'peers')
const python = join(peers, '.venv', 'bin', 'python')

/** The service, and other ways to serve the same graphs. */
export const contestants: Contestant[] = [
  {
    name: 'service',
    title: 'this service',
    command: (place) => serviceCommand(place.port, ['--drain-delay', '0', '--model', place.model]),
  },
  {
    name: 'fastapi',
    title: 'FastAPI',
    prepare: () => install('requirements.txt'),
    command: (place) => uvicorn('plain_app', place),
  },
  {
    name: 'fastapi-batch',
    title: 'FastAPI with a batching queue',
    prepare: () => install('requirements.txt'),
    command: (place) => uvicorn('batching_app', place),
  },
  {
    name: 'ray',
    title: 'Ray Serve',
    prepare: () => install('requirements.txt', 'requirements-ray.txt'),
    command: (place) => [python, join(peers, 'ray_server.py'), ...options(place)],
  },
  {
    name: 'fastify',
    title: 'plain Fastify',
    command: (place) => [process.execPath, join(peers, 'fastify-server.ts'), ...options(place)],
  },
]

function options({ port, model, cores }: Place): string[] {
  return ['--port', `${port}`, '--model', model, '--cores', `${cores}`]
}

/** One worker per core, as FastAPI's documentation recommends for a machine with several. */
function uvicorn(app: string, { port, model, cores }: Place): string[] {
  return [
    ...['env', `MODEL=${model}`, python, '-m', 'uvicorn', '--app-dir', peers, '--factory', `fastapi_server:${app}`],
    ...['--port', `${port}`, '--workers', `${cores}`],
    ...['--loop', 'uvloop', '--http', 'httptools', '--no-access-log', '--log-level', 'warning'],
  ]
}

/** Installs what these files list into the peers' virtual environment; this takes seconds if it is installed already. */
async function install(...requirements: string[]): Promise<void> {
  const run = promisify(execFile)
  if (!existsSync(python)) await run('python3', ['-m', 'venv', join(peers, '.venv')])
  const files = requirements.flatMap((file) => ['-r', join(peers, file)])
  await run(python, ['-m', 'pip', 'install', '--quiet', ...files])
}
