// Tests what the service promises, one chapter after the other, and reports what was seen of each promise.
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import { availableParallelism, cpus } from 'node:os'
import { join } from 'node:path'
import { Command, InvalidArgumentError, Option } from 'commander'
import { bombs } from './bombs.ts'
import { clients } from './clients.ts'
import { contract } from './contract.ts'
import { fairness } from './fairness.ts'
import { faults } from './faults.ts'
import { fuzz } from './fuzz.ts'
import { http } from './http.ts'
import { overload } from './overload.ts'
import type { Chapter, Finding } from './promise.ts'
import { rollingRestart } from './rolling-restart.ts'
import { scaleDown } from './scale-down.ts'

const chapters: Record<string, Chapter> = {
  fuzz,
  contract,
  bombs,
  http,
  fairness,
  overload,
  clients,
  faults,
  'rolling-restart': rollingRestart,
  'scale-down': scaleDown,
}

interface Options {
  long: boolean
  seed: number
  chapters: string[]
  out: string | undefined
}

const options = new Command('reliability')
  .description('Tests what the service promises and prints a table of the promises and what was seen.')
  .option('--long', 'the long form, which takes about an hour', false)
  .option('--seed <n>', 'seed of everything random', Number, 1)
  .addOption(
    new Option('--chapters <list>', Object.keys(chapters).join(', '))
      .default(Object.keys(chapters), 'all')
      .argParser(chapterNames),
  )
  .option('--out <folder>', 'for the findings as JSON and Markdown; those of other chapters there are kept')
  .parse()
  .opts<Options>()

/** A chapter's findings, as they are stored. */
interface Result {
  chapter: string
  date: string
  machine: string
  long: boolean
  seed: number
  seconds: number
  findings: Finding[]
}

const machine = `${availableParallelism()} x ${cpus()[0]?.model.trim()}, Node ${process.version}`
const results: Result[] = []
for (const chapter of options.chapters) {
  const start = performance.now()
  const findings: Finding[] = []
  for await (const finding of (chapters[chapter] as Chapter)(options)) {
    findings.push(finding)
    console.error(`${finding.kept ? 'kept  ' : 'BROKEN'}  ${chapter}: ${finding.promise}: ${finding.figure}`)
  }
  const { long, seed } = options
  const seconds = Math.round((performance.now() - start) / 1000)
  results.push({ chapter, date: new Date().toISOString(), machine, long, seed, seconds, findings })
  if (options.out !== undefined) await keep(results, options.out)
}
console.log(tableOf(results))
process.exitCode = results.every(({ findings }) => findings.every(({ kept }) => kept)) ? 0 : 1

/** Writes the results, and keeps those of chapters that did not run this time. */
async function keep(results: Result[], folder: string): Promise<void> {
  const file = join(folder, 'results.json')
  const before = await readFile(file, 'utf8').then(
    (text) => JSON.parse(text) as Result[],
    () => [],
  )
  const all = Object.keys(chapters).flatMap(
    (name) => [...results, ...before].find(({ chapter }) => chapter === name) ?? [],
  )
  await mkdir(folder, { recursive: true })
  await writeFile(file, `${JSON.stringify(all, null, 2)}\n`)
  await writeFile(join(folder, 'results.md'), `${tableOf(all)}\n`)
}

function tableOf(results: Result[]): string {
  const rows = results.flatMap(({ chapter, findings }) =>
    findings.map(
      ({ promise, figure, kept }) => `| \`${chapter}\` | ${promise} | ${figure} | ${kept ? 'yes' : '**no**'} |`,
    ),
  )
  return ['| chapter | promise | seen | kept |', '| --- | --- | --- | --- |', ...rows].join('\n')
}

function chapterNames(text: string): string[] {
  const names = text.split(',')
  const unknown = names.find((name) => !(name in chapters))
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no chapter ${unknown}.`)
  return names
}
