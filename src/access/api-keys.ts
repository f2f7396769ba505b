import { createHash, timingSafeEqual } from 'node:crypto'
import { readFileSync, unwatchFile, watchFile } from 'node:fs'
import type { IncomingHttpHeaders } from 'node:http'
import type { FastifyBaseLogger } from 'fastify'
import { isApiKey } from '../config.ts'

const POLL_MS = 1000

interface Key {
  /** The key holder's name. A holder can have several keys, for example while a new one replaces an old one. */
  holder: string
  digest: Buffer
}

/** The API keys that are valid now. It keeps their digests, not the keys. */
export class ApiKeys {
  #keys: Key[]
  readonly #file: string | undefined

  /**
   * @param options one key, a file of keys, or neither, which lets everyone in
   * @throws Error with a sentence about the file, if it cannot be used
   */
  constructor(options: { apiKey?: string | undefined; apiKeysFile?: string | undefined }, log: FastifyBaseLogger) {
    const { apiKey, apiKeysFile: file } = options
    this.#file = file
    if (file === undefined) {
      this.#keys = apiKey === undefined ? [] : [{ holder: 'api-key', digest: digest(apiKey) }]
      return
    }
    this.#keys = readKeys(file)
    // Polling follows the symbolic links that Kubernetes swaps when a mounted secret changes.
    watchFile(file, { interval: POLL_MS, persistent: false }, () => {
      try {
        this.#keys = readKeys(file)
        log.info({ keyHolders: [...new Set(this.#keys.map(({ holder }) => holder))] }, 'API keys reloaded')
      } catch (error) {
        log.error(`${(error as Error).message}; the previous API keys stay valid`)
      }
    })
  }

  /** Whether a key is needed at all. */
  get needed(): boolean {
    return this.#keys.length > 0
  }

  /** The holder of the key that the request carries, as a bearer token or as `x-api-key`. */
  holderOf(headers: IncomingHttpHeaders): string | undefined {
    const given = headers['x-api-key'] ?? /^bearer +(\S+) *$/i.exec(headers.authorization ?? '')?.[1]
    if (typeof given !== 'string') return undefined
    const wanted = digest(given)
    // All keys are compared, so that the time taken does not reveal which one matched, if any.
    return this.#keys.filter((key) => timingSafeEqual(key.digest, wanted))[0]?.holder
  }

  /** Stops watching the file. */
  close(): void {
    if (this.#file !== undefined) unwatchFile(this.#file)
  }
}

function readKeys(file: string): Key[] {
  let text: string
  try {
    text = readFileSync(file, 'utf8')
  } catch (error) {
    throw new Error(`the API keys cannot be read: ${(error as Error).message}`)
  }
  const keys = text.split('\n').flatMap((line, index) => {
    const words = line.trim().split(/\s+/)
    if (words[0] === '' || words[0]?.startsWith('#')) return []
    const [holder, key = ''] = words.length === 1 ? [`line-${index + 1}`, words[0]] : words
    // No message may contain what could be a key.
    if (words.length > 2 || !isApiKey(key) || !/^[\w.:-]{1,64}$/.test(holder as string)) {
      throw new Error(`line ${index + 1} of ${file} is neither \`key\` nor \`name key\``)
    }
    return [{ holder: holder as string, digest: digest(key) }]
  })
  if (keys.length === 0) throw new Error(`${file} holds no API key`)
  return keys
}

// Digests have the same length, which timingSafeEqual requires.
function digest(text: string): Buffer {
  return createHash('sha256').update(text).digest()
}
