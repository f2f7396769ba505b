import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { promisify } from 'node:util'

/** Where and on what a contestant is to run. */
export interface Place {
  port: number
  /** The bundle's folder. */
  model: string
  /** Cores to use. */
  cores: number
}

/** A server that takes `POST /encode`, `POST /decode` and `GET /health/live`. */
export interface Contestant {
  name: string
  title: string
  /** Installs what it needs. */
  prepare?(): Promise<void>
  /** The command line that starts it. */
  command(place: Place): string[]
}

const root = join(import.meta.dirname, '..')
const peers = join(import.meta.dirname, 'peers')
const python = join(peers, '.venv', 'bin', 'python')

/** The service, and what else would be put in front of the same graphs. */
export const contestants: Contestant[] = [
  {
    name: 'service',
    title: 'this service',
    // As `npm start` has it.
    command: (place) => [
      join(root, 'start.sh'),
      ...['--provider', 'cpu', '--drain-delay', '0'],
      ...['--port', `${place.port}`, '--model', place.model],
    ],
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

/** A worker a core, as FastAPI's documentation has it for a machine of several. */
function uvicorn(app: string, { port, model, cores }: Place): string[] {
  return [
    ...['env', `MODEL=${model}`, python, '-m', 'uvicorn', '--app-dir', peers, '--factory', `fastapi_server:${app}`],
    ...['--port', `${port}`, '--workers', `${cores}`],
    ...['--loop', 'uvloop', '--http', 'httptools', '--no-access-log', '--log-level', 'warning'],
  ]
}

/** Brings the peers' virtual environment to what these files list, which takes seconds where it is there already. */
async function install(...requirements: string[]): Promise<void> {
  const run = promisify(execFile)
  if (!existsSync(python)) await run('python3', ['-m', 'venv', join(peers, '.venv')])
  const files = requirements.flatMap((file) => ['-r', join(peers, file)])
  await run(python, ['-m', 'pip', 'install', '--quiet', ...files])
}
