import { execFile } from 'node:child_process'
import { existsSync } from 'node:fs'
import { mkdtemp, readFile, rm, symlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { root } from './service.ts'

const run = promisify(execFile)

/** A folder with this service at some commit, ready to start. */
export interface Checkout {
  folder: string
  /** Its abbreviated commit, with `+` if files differ from it. */
  commit: string
  /** Removes everything that was created for it. */
  dispose(): Promise<void>
}

/** @param which a folder with a checkout whose packages are installed, or a commit, which is built in its own folder */
export async function checkOut(which: string): Promise<Checkout> {
  const folder = resolve(which)
  if (existsSync(join(folder, 'start.sh'))) {
    return { folder, commit: await commitOf(folder), dispose: async () => {} }
  }
  const { stdout } = await run('git', ['-C', root, 'rev-parse', '--verify', '--quiet', `${which}^{commit}`]).catch(
    () => {
      throw new Error(`${which} is neither a folder with a checkout nor a commit`)
    },
  )
  const made = await mkdtemp(join(tmpdir(), 'checkout-'))
  const dispose = () => rm(made, { recursive: true })
  try {
    await run('git', ['clone', '--quiet', '--shared', '--no-checkout', root, made])
    await run('git', ['-C', made, 'checkout', '--quiet', '--detach', stdout.trim()])
    await installPackages(made)
    return { folder: made, commit: await commitOf(made), dispose }
  } catch (error) {
    await dispose()
    throw error
  }
}

/** The abbreviated commit of a checkout, with `+` if files differ from it. */
export async function commitOf(folder: string): Promise<string> {
  const git = async (...args: string[]) => (await run('git', ['-C', folder, ...args])).stdout.trim()
  const changed = await git('status', '--porcelain', '--untracked-files=no')
  return `${await git('rev-parse', '--short', 'HEAD')}${changed === '' ? '' : '+'}`
}

/** Uses this checkout's packages if they are the same. */
async function installPackages(folder: string): Promise<void> {
  const [here, there] = await Promise.all(
    [root, folder].map((path) => readFile(join(path, 'package-lock.json'), 'utf8')),
  )
  if (here === there) await symlink(join(root, 'node_modules'), join(folder, 'node_modules'))
  else await run('npm', ['ci', '--omit=dev', '--no-audit', '--no-fund'], { cwd: folder, maxBuffer: 2 ** 26 })
}
