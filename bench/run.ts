// The benchmark: compares the service with a baseline and with its peers; see `--help`.
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { readBundle } from '../src/inference/bundle.ts'
import { usableCores } from '../src/inference/sizing.ts'
import { compareCheckouts, comparisonTable } from './against.ts'
import { type Contestant, contestants } from './contestants.ts'
import { describeMachine } from './machine.ts'
import { plot } from './plot.ts'
import { race } from './race.ts'
import { markdown, targetTable, throughputTable } from './report.ts'
import { BASELINE, type LoadName, loads } from './results.ts'
import { SIZING_CLIENTS, SIZING_LOADS, sizings, sizingTargets } from './sizing.ts'
import { soak, soakTargets } from './soak.ts'
import { targetsOf } from './targets.ts'

const names = ['service', BASELINE, ...contestants.map(({ name }) => name).filter((name) => name !== 'service')]
const SOAK_MARKS = [1_000, 8_000, 15_000, 22_000, 29_000, 36_000, 43_000, 50_000]

const usage = `npm run bench -- [options]
  --contestants <list>  any of ${names.join(', ')} (default: all)
  --loads <list>        any of ${Object.keys(loads).join(', ')} (default: all)
  --clients <list>      connections, one request at a time on each (default 1,8,32,128)
  --rounds <n>          number of rounds; each contestant runs in each (default 3)
  --seconds <s>         length of one measurement (default 8)
  --quick               one round with measurements of 2 seconds, and 1 and 32 clients
  --soak                only send 50,000 images to the service and watch its memory
  --against <checkout>  only compare with another commit, or a folder with a checkout (4 rounds by default)
  --sizing              only compare the service as it sizes itself with settings by hand
  --model <folder>      the bundle (default models/nativetok-128)
  --out <folder>        for results.json, results.md and plot.svg, soak.json, sizing.json or against.json
                        and against.md (default bench/results)`

const { values: options } = parseArgs({
  options: {
    contestants: { type: 'string', default: names.join() },
    loads: { type: 'string', default: Object.keys(loads).join() },
    clients: { type: 'string' },
    rounds: { type: 'string' },
    seconds: { type: 'string' },
    quick: { type: 'boolean', default: false },
    soak: { type: 'boolean', default: false },
    sizing: { type: 'boolean', default: false },
    against: { type: 'string' },
    model: { type: 'string', default: join(import.meta.dirname, '..', 'models', 'nativetok-128') },
    out: { type: 'string', default: join(import.meta.dirname, 'results') },
    help: { type: 'boolean', default: false },
  },
})
if (options.help) {
  console.log(usage)
  process.exit()
}

const { model, quick } = options
const { shape } = await readBundle(model)
const cores = await usableCores()
const machine = await describeMachine(cores, model)
const place = { model, cores, imageSize: shape.imageSize }
const service = contestants.find(({ name }) => name === 'service') as Contestant
const common = {
  ...{ ...place, service },
  rounds: number('rounds', options.rounds ?? (quick ? '1' : options.against === undefined ? '3' : '4')),
  seconds: number('seconds', options.seconds ?? (quick ? '2' : '8')),
  say: (line: string) => console.error(line),
}
await mkdir(options.out, { recursive: true })

if (options.against !== undefined) {
  const comparison = await compareCheckouts({ ...common, ...place }, options.against)
  const report = comparisonTable(comparison)
  await writeJson('against.json', { machine, ...comparison })
  await writeFile(join(options.out, 'against.md'), `${report}\n`)
  console.log(report)
} else if (options.soak) {
  const rows = await soak(service, place, SOAK_MARKS)
  const targets = soakTargets(rows)
  await writeJson('soak.json', { machine, targets, rows })
  console.log(targetTable(targets))
} else if (options.sizing) {
  const results = await race({
    ...{ ...common, contestants: sizings(service, cores), baseline: false },
    ...{ loads: [...SIZING_LOADS], clients: SIZING_CLIENTS },
  })
  const targets = sizingTargets(service, results.rows)
  await writeJson('sizing.json', { machine, targets, ...results })
  console.log(`${targetTable(targets)}\n\n${throughputTable(results)}`)
} else {
  const chosen = listOf('contestants', options.contestants, names)
  const results = {
    machine,
    ...(await race({
      ...common,
      contestants: contestants.filter(({ name }) => chosen.includes(name)),
      baseline: chosen.includes(BASELINE),
      loads: listOf('loads', options.loads, Object.keys(loads)) as LoadName[],
      clients: (options.clients ?? (quick ? '1,32' : '1,8,32,128')).split(',').map((text) => number('clients', text)),
    })),
  }
  await writeJson('results.json', { targets: targetsOf(results), ...results })
  await writeFile(join(options.out, 'results.md'), `${markdown(results)}\n`)
  await writeFile(join(options.out, 'plot.svg'), plot(results))
  console.log(targetTable(targetsOf(results)))
}

function writeJson(name: string, value: object): Promise<void> {
  return writeFile(join(options.out, name), `${JSON.stringify(value, null, 2)}\n`)
}

function listOf(option: string, text: string, known: string[]): string[] {
  const list = text.split(',')
  const unknown = list.find((name) => !known.includes(name))
  if (unknown !== undefined) throw new Error(`--${option} ${unknown}: it is one of ${known.join(', ')}`)
  return list
}

function number(option: string, text: string): number {
  const value = Number(text)
  if (!(value > 0)) throw new Error(`--${option} ${text}: it must be a number above 0`)
  return value
}
