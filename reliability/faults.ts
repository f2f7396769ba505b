import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { cp, mkdtemp, readFile, rename, rm, stat, writeFile } from 'node:fs/promises'
import { createConnection, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { promisify } from 'node:util'
import { freePort } from '../tools/free-port.ts'
import { Service, type ServiceOptions } from '../tools/service.ts'
import { secondsUntil, until } from '../tools/wait.ts'
import type { Finding, Scope } from './promise.ts'
import { inWords, type Tally, Traffic } from './traffic.ts'

const run = promisify(execFile)

const CLIENTS = 6
const BATCH = 8
/** Deadline of a request in seconds; an engine that hangs is found after a third of it. */
const DEADLINE = 15
const ENGINES = 2
/** Seconds within which everything must be as before, also after a hang. */
const HEAL_SECONDS = 30
/** The service ends after a minute without an engine, and needs some time to end. */
const GIVE_UP_SECONDS = 60 + 2 * DEADLINE
const DAY_MS = 86_400_000
const BUNDLE = join(import.meta.dirname, '..', 'models', 'nativetok-128')

/** What happened during a fault: the answers, and seconds until the service had recovered, infinite if it never did. */
interface Course {
  tally: Tally
  healed: number
}

/** Faults, one by one, each with its own service under load. */
export async function* faults({ long }: Scope): AsyncGenerator<Finding> {
  for (const [what, signal, victims] of [
    ['an engine is killed', 'SIGKILL', 1],
    ['all engines are killed at once', 'SIGKILL', ENGINES],
    ['an engine crashes in native code', 'SIGSEGV', 1],
    ['an engine aborts', 'SIGABRT', 1],
    ['an engine hangs', 'SIGSTOP', 1],
    ['an engine is asked to end', 'SIGTERM', 1],
  ] as const) {
    yield await signalled(what, signal, victims)
  }
  yield await repeatedly(long ? 50 : 3)
  yield await withoutMemory()
  yield await withoutDescriptors()
  yield* await withoutDisk()
  yield* await clockJumps()
  yield* await Promise.all([withoutBundle('altered'), withoutBundle('deleted')])
}

/** Runs the service under load, causes a fault and waits for recovery. */
async function during(
  options: ServiceOptions,
  fault: (service: Service) => Promise<unknown>,
  whole: (service: Service) => Promise<boolean>,
): Promise<Course> {
  const service = await start(options)
  try {
    const traffic = await begin(service)
    await fault(service)
    const healed = await secondsUntil(() => whole(service), HEAL_SECONDS)
    const before = traffic.tally.right
    await secondsUntil(() => traffic.tally.right > before, HEAL_SECONDS)
    return { tally: await traffic.stop(), healed }
  } finally {
    await service.stop()
  }
}

function start({ flags = [], ...others }: ServiceOptions): Promise<Service> {
  const own = ['--engines', `${ENGINES}`, '--request-timeout', `${DEADLINE}`, '--drain-delay', '0']
  return Service.start({ ...others, flags: [...own, ...flags] })
}

/** Starts the load and waits for the first answers. */
async function begin(service: Service): Promise<Traffic> {
  const traffic = await Traffic.begin(service.url, { clients: CLIENTS, batch: BATCH })
  await until(() => traffic.tally.right >= CLIENTS, HEAL_SECONDS)
  return traffic
}

/** Whether all engines are ready and none of them is one of `gone`. */
async function replaced(service: Service, gone: number[]): Promise<boolean> {
  const pids = await service.engines()
  const ready = service.said('engine ready') >= ENGINES + gone.length
  return ready && !gone.some((pid) => pids.includes(pid)) && (await service.ready())
}

async function signalled(what: string, signal: NodeJS.Signals, victims: number): Promise<Finding> {
  let gone: number[] = []
  const ignored = signal === 'SIGTERM'
  const { tally, healed } = await during(
    {},
    async (service) => {
      gone = (await service.engines()).slice(0, victims)
      for (const pid of gone) process.kill(pid, signal)
    },
    (service) => (ignored ? service.ready() : replaced(service, gone)),
  )
  return {
    promise: `${what} (${signal}): every request is answered, and none wrongly`,
    figure: `${inWords(tally)}; recovered after ${healed.toFixed(1)} s`,
    kept: isClean(tally) && Number.isFinite(healed),
  }
}

async function repeatedly(times: number): Promise<Finding> {
  const service = await start({})
  try {
    const traffic = await begin(service)
    const gone: number[] = []
    for (let i = 0; i < times; i++) {
      const [pid] = await service.engines()
      if (pid === undefined) break
      gone.push(pid)
      process.kill(pid, 'SIGKILL')
      if ((await secondsUntil(() => replaced(service, gone), HEAL_SECONDS)) > HEAL_SECONDS) break
    }
    const tally = await traffic.stop()
    return {
      promise: `an engine is killed ${times} times, each time after the last one was replaced: no request fails`,
      figure: `${inWords(tally)}; ${gone.length} killed`,
      kept: gone.length === times && traffic.failed === 0,
    }
  } finally {
    await service.stop()
  }
}

async function withoutMemory(): Promise<Finding> {
  let gone: number[] = []
  const { tally, healed } = await during(
    {},
    async (service) => {
      gone = (await service.engines()).slice(0, 1)
      // Below its current size, so its next allocation fails.
      await run('prlimit', ['--pid', `${gone[0]}`, '--as=1000000'])
    },
    (service) => replaced(service, gone),
  )
  return {
    promise: 'an engine cannot allocate memory: it is replaced, every request is answered, and none wrongly',
    figure: `${inWords(tally)}; recovered after ${healed.toFixed(1)} s`,
    kept: isClean(tally) && Number.isFinite(healed),
  }
}

async function withoutDescriptors(): Promise<Finding> {
  const limit = 96
  let gone: number[] = []
  let sockets: Socket[] = []
  const { tally, healed } = await during(
    { under: ['prlimit', `--nofile=${limit}`] },
    async (service) => {
      const { hostname, port } = new URL(service.url)
      sockets = Array.from({ length: 2 * limit }, () => createConnection(Number(port), hostname).on('error', () => {}))
      await until(async () => (await service.descriptors()) >= limit - 2, HEAL_SECONDS)
      gone = (await service.engines()).slice(0, 1)
      for (const pid of gone) process.kill(pid, 'SIGKILL')
      await sleep(3000)
      for (const socket of sockets) socket.destroy()
    },
    (service) => replaced(service, gone),
  )
  return {
    promise:
      'connections use up all descriptors while an engine is killed: every request is answered, and none wrongly',
    figure: `${inWords(tally)}; recovered ${healed.toFixed(1)} s after the connections closed`,
    kept: isClean(tally) && Number.isFinite(healed),
  }
}

async function withoutDisk(): Promise<Finding[]> {
  const folder = await mkdtemp(join(tmpdir(), 'reliability-'))
  try {
    const into = (file: string) => ['sh', '-c', `exec "$0" "$@" > '${file}'`]
    const cases: [string, string[]][] = [
      ['the log goes to a full device', into('/dev/full')],
      ['the log reaches a limit on file size', ['prlimit', '--fsize=8192', ...into(join(folder, 'log'))]],
    ]
    const found: Finding[] = []
    for (const [what, under] of cases) {
      found.push(await withoutLog(what, { under, port: await freePort() }))
    }
    return found
  } finally {
    await rm(folder, { recursive: true })
  }
}

async function withoutLog(what: string, options: ServiceOptions): Promise<Finding> {
  const promise = `${what}: the service goes on serving`
  try {
    const service = await start(options)
    try {
      const traffic = await begin(service)
      await sleep(3000)
      const tally = await traffic.stop()
      const alive = !service.ended && (await service.ready())
      return { promise, figure: inWords(tally), kept: alive && isClean(tally) && traffic.failed === 0 }
    } finally {
      await service.stop()
    }
  } catch (error) {
    return { promise, figure: (error as Error).message, kept: false }
  }
}

async function clockJumps(): Promise<Finding[]> {
  const library = fakeTimeLibrary()
  if (library === undefined) {
    console.error(
      'faults: libfaketime is not installed (Debian: apt install faketime), so jumps of the clock were skipped',
    )
    return []
  }
  const folder = await mkdtemp(join(tmpdir(), 'reliability-'))
  try {
    // Written elsewhere and renamed, since libfaketime reads it at any moment.
    const [file, next] = [join(folder, 'offset'), join(folder, 'next')]
    const jump = async (days: number) => {
      await writeFile(next, `${days < 0 ? '-' : '+'}${Math.abs(days)}d\n`)
      await rename(next, file)
    }
    await jump(0)
    // Only the wall clock: nothing sets a monotonic clock.
    const env = {
      ...{ LD_PRELOAD: library, FAKETIME_TIMESTAMP_FILE: file },
      ...{ FAKETIME_NO_CACHE: '1', FAKETIME_DONT_FAKE_MONOTONIC: '1' },
    }
    // Under jemalloc libfaketime does not start: each calls the other before it is ready.
    const service = await start({ env, plain: true })
    try {
      const traffic = await begin(service)
      const seen: number[] = []
      for (const days of [1, -1, 0]) {
        await jump(days)
        const before = traffic.tally.right
        await secondsUntil(() => traffic.tally.right >= before + 2 * CLIENTS, HEAL_SECONDS)
        seen.push(Math.round((Number(service.lines.at(-1)?.time) - Date.now()) / DAY_MS))
      }
      const restarts = service.said('engine ended, starting a replacement')
      const tally = await traffic.stop()
      const kept = isClean(tally) && traffic.failed === 0 && restarts === 0 && seen.join() === '1,-1,0'
      const figure = `${inWords(tally)}; ${restarts} engines replaced; its log was ${seen.join(', ')} days off`
      return [{ promise: 'the clock jumps a day forward, two back and one forward: no request fails', figure, kept }]
    } finally {
      await service.stop()
    }
  } finally {
    await rm(folder, { recursive: true })
  }
}

/** The library for programs with threads, where Debian and others install it. */
function fakeTimeLibrary(): string | undefined {
  const folders = [`/usr/lib/${process.arch === 'arm64' ? 'aarch64' : 'x86_64'}-linux-gnu`, '/usr/lib64', '/usr/lib']
  const files = folders.map((folder) => join(folder, 'faketime', 'libfaketimeMT.so.1'))
  return files.find((file) => existsSync(file))
}

/** The bundle changes under a running service without a cache, then all engines die. With one, engines would load that. */
async function withoutBundle(fate: 'altered' | 'deleted'): Promise<Finding> {
  const folder = await mkdtemp(join(tmpdir(), 'reliability-'))
  const bundle = join(folder, 'bundle')
  await cp(BUNDLE, bundle, { recursive: true })
  const service = await start({ flags: ['--model', bundle, '--cache', 'none'] })
  try {
    const traffic = await begin(service)
    if (fate === 'deleted') await rm(bundle, { recursive: true })
    else await flipByte(join(bundle, 'encoder.onnx'))
    for (const pid of await service.engines()) process.kill(pid, 'SIGKILL')
    const since = performance.now()
    await sleep(2 * DEADLINE * 1000)
    const tally = await traffic.stop()
    await secondsUntil(() => service.ended, GIVE_UP_SECONDS)
    const after = `${((performance.now() - since) / 1000).toFixed(0)} s`
    return {
      promise: `without a cache, the bundle is ${fate} and all engines die: no other weights are served, and the service ends with exit code 1`,
      figure: `${inWords(tally)}; ${service.ended ? `ended with ${service.exit} after ${after}` : `still running after ${after}`}`,
      kept: isClean(tally) && service.exit === 1,
    }
  } finally {
    await service.kill()
    await rm(folder, { recursive: true })
  }
}

async function flipByte(file: string): Promise<void> {
  const { size } = await stat(file)
  const bytes = await readFile(file)
  const middle = size >> 1
  bytes[middle] = (bytes[middle] as number) ^ 1
  await writeFile(file, bytes)
}

/** Whether every request was answered with the right tokens or with a problem. */
function isClean({ right, wrong, unanswered }: Tally): boolean {
  return right > 0 && wrong === 0 && unanswered === 0
}
