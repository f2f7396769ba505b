// Tries what the service promises, one chapter after the other, and says what was seen of each promise.
import { mkdir, writeFile } from 'node:fs/promises'
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
}

interface Options {
  long: boolean
  seed: number
  chapters: string[]
  out: string | undefined
}

const options = new Command('reliability')
  .description('Tries what the service promises and prints a table of promises with what was seen.')
  .option('--long', 'the long form, about an hour', false)
  .option('--seed <n>', 'of all that is drawn at random', Number, 1)
  .addOption(
    new Option('--chapters <list>', Object.keys(chapters).join(', '))
      .default(Object.keys(chapters), 'all')
      .argParser(chapterNames),
  )
  .option('--out <folder>', 'where to write the findings, as JSON and Markdown')
  .parse()
  .opts<Options>()

const found: { chapter: string; seconds: number; findings: Finding[] }[] = []
for (const chapter of options.chapters) {
  const start = performance.now()
  const findings: Finding[] = []
  for await (const finding of (chapters[chapter] as Chapter)(options)) {
    findings.push(finding)
    console.error(`${finding.kept ? 'kept  ' : 'BROKEN'}  ${chapter}: ${finding.promise}: ${finding.figure}`)
  }
  found.push({ chapter, seconds: Math.round((performance.now() - start) / 1000), findings })
}
const table = tableOf(found.flatMap(({ findings }) => findings))
console.log(table)
if (options.out !== undefined) {
  await mkdir(options.out, { recursive: true })
  const machine = `${availableParallelism()} x ${cpus()[0]?.model.trim()}, Node ${process.version}`
  const results = { date: new Date().toISOString(), machine, long: options.long, seed: options.seed, chapters: found }
  await writeFile(join(options.out, 'results.json'), `${JSON.stringify(results, null, 2)}\n`)
  await writeFile(join(options.out, 'results.md'), `${table}\n`)
}
process.exitCode = found.every(({ findings }) => findings.every(({ kept }) => kept)) ? 0 : 1

function tableOf(findings: Finding[]): string {
  const rows = findings.map(({ promise, figure, kept }) => `| ${promise} | ${figure} | ${kept ? 'yes' : '**no**'} |`)
  return ['| promise | seen | kept |', '| --- | --- | --- |', ...rows].join('\n')
}

function chapterNames(text: string): string[] {
  const names = text.split(',')
  const unknown = names.find((name) => !(name in chapters))
  if (unknown !== undefined) throw new InvalidArgumentError(`There is no chapter ${unknown}.`)
  return names
}
