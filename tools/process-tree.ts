import { readdir, readFile } from 'node:fs/promises'

// Linux counts processor time for user space in hundredths of a second on every architecture that Node runs on.
const TICKS_PER_SECOND = 100

interface Process {
  pid: number
  parent: number
  /** Seconds of processor time: its own and that of its children which have ended. */
  cpu: number
}

/** Process ids of a process and all its descendants. Linux only. */
export async function treeOf(pid: number): Promise<number[]> {
  return (await readTree(pid)).map((process) => process.pid)
}

/**
 * Seconds of processor time that a process and all its descendants have used so far, including descendants that have ended
 * if a process of the tree has waited for them. Linux only.
 */
export async function cpuSeconds(pid: number): Promise<number> {
  return (await readTree(pid)).reduce((sum, { cpu }) => sum + cpu, 0)
}

/**
 * Memory of a process and all its descendants in MiB. Pages that several of them share count once if the kernel reports how
 * many processes share them, else once for each.
 */
export async function memoryMiB(pid: number): Promise<number> {
  const sizes = await Promise.all((await treeOf(pid)).map(memoryOf))
  return sizes.reduce((sum, kib) => sum + kib, 0) / 1024
}

/** Memory of one process, in MiB. */
export interface ProcessMemory {
  pid: number
  /** What no other process shares. */
  ownMiB: number
  /** With its part of what it shares. */
  withSharedMiB: number
}

/** Memory of a process, which comes first, and of each of its descendants. Linux only. */
export async function memoryByProcess(pid: number): Promise<ProcessMemory[]> {
  return Promise.all(
    (await treeOf(pid)).map(async (member) => {
      const text = await readFile(`/proc/${member}/smaps_rollup`, 'latin1').catch(() => '')
      const mib = (field: string) => Number(new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(text)?.[1] ?? 0) / 1024
      return { pid: member, ownMiB: mib('Private_Clean') + mib('Private_Dirty'), withSharedMiB: mib('Pss') }
    }),
  )
}

/** Seconds of processor time that all processes of this machine have used so far, since it started. Linux only. */
export async function machineCpuSeconds(): Promise<number> {
  const [line = ''] = (await readFile('/proc/stat', 'latin1')).split('\n')
  // User, nice and system time. Idle time and interrupts, which belong to no process, come after these.
  const ticks = line.trim().split(/\s+/).slice(1, 4).map(Number)
  return ticks.reduce((sum, value) => sum + value, 0) / TICKS_PER_SECOND
}

async function readTree(root: number): Promise<Process[]> {
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name)).map(Number)
  const all = (await Promise.all(pids.map(readProcess))).filter((process) => process !== undefined)
  const children = Map.groupBy(all, ({ parent }) => parent)
  const tree = all.filter(({ pid }) => pid === root)
  // The array grows during the loop, until it contains the children of all its processes.
  for (const { pid } of tree) tree.push(...(children.get(pid) ?? []))
  return tree
}

async function readProcess(pid: number): Promise<Process | undefined> {
  const stat = await readFile(`/proc/${pid}/stat`, 'latin1').catch(() => undefined)
  if (stat === undefined) return undefined
  // The name, in parentheses, may hold spaces and parentheses itself. After it come the fields from the third on.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
  return { pid, parent: Number(fields[1]), cpu: ticks / TICKS_PER_SECOND }
}

async function memoryOf(pid: number): Promise<number> {
  const read = (file: string) => readFile(`/proc/${pid}/${file}`, 'latin1').catch(() => '')
  const kib = /^Pss:\s+(\d+)/m.exec(await read('smaps_rollup')) ?? /^VmRSS:\s+(\d+)/m.exec(await read('status'))
  return Number(kib?.[1] ?? 0)
}
