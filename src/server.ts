import './formats/thread-pool.ts'
import { flushCompileCache } from 'node:module'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { CommanderError } from 'commander'
import type { Logger } from 'pino'
import { buildApp } from './app.ts'
import { type Config, readConfig } from './config.ts'
import { cacheFolder, Inference, type ModelInfo } from './inference/inference.ts'
import { createLog, toggleDebug } from './observability/log.ts'
import { Metrics } from './observability/metrics.ts'
import { endGracefully } from './shutdown.ts'

await main()

/** Reads the configuration and starts inference and HTTP. If it cannot start, it prints one sentence and exits with 1. */
async function main(): Promise<void> {
  let inference: Inference | undefined
  try {
    const config = readConfig(process.argv.slice(2), process.env)
    const log = createLog({ level: config.logLevel, format: config.logFormat })
    process.on('SIGUSR2', () => toggleDebug(log, config.logLevel))
    const metrics = new Metrics()
    inference = await Inference.start({
      model: config.model,
      cache: cacheFolder(config.cache, process.env),
      provider: config.provider,
      devices: config.devices,
      engines: config.engines,
      threads: config.threads,
      tf32: config.tf32,
      maxBatch: config.maxBatch,
      queueLimit: config.queueLimit,
      // Short enough to replace an engine that stalls and run its batch again before the request's deadline.
      timeoutMs: (config.requestTimeout * 1000) / 3,
      log,
      metrics: metrics.inference,
    })
    await serve(config, inference, metrics, log)
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return
    process.stderr.write(`nativetok: ${sentenceOf(error)}\n`)
    process.exitCode = 1
    await inference?.close()
  }
}

async function serve(config: Config, inference: Inference, metrics: Metrics, log: Logger): Promise<void> {
  const { http, services } = await buildApp({ config, inference, log, metrics })
  await http.listen({
    host: config.host,
    port: config.port,
    listenTextResolver: (address) => `listening on ${address}`,
  })
  const { name, modelDigest, bundleDigest, provider, providerReason, engines, threads, maxBatch } = inference.info
  log.info(
    { name, model: modelDigest, bundle: bundleDigest, provider, providerReason, engines, threads, maxBatch },
    'serving',
  )
  void inference.lost.then((reason) => {
    // An uncaught error ends the process gracefully, see below.
    throw new Error(reason)
  })
  // Now rather than at the exit, which may be a kill.
  flushCompileCache()
  log.info(`try: ${exampleOf(config, inference.info, http.server.address() as AddressInfo)}`)

  endGracefully(log, async (cause) => {
    services.draining = true
    if ('error' in cause) log.fatal({ err: cause.error }, 'shutting down after an error')
    else {
      log.info({ signal: cause.signal, drainDelay: config.drainDelay }, 'draining')
      await sleep(config.drainDelay * 1000)
    }
    await http.close()
    await inference.close()
    log.info('ended')
  })
}

function sentenceOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  if ('code' in error && error.code === 'EADDRINUSE')
    return `port ${'port' in error ? error.port : ''} is in use by another process; choose another one with --port`
  return error.message
}

/** A command to paste into a shell. It asks for the first stage where the model has shorter sequences. */
function exampleOf(config: Config, { kind, stages }: ModelInfo, { address, port, family }: AddressInfo): string {
  const host = ['0.0.0.0', '::'].includes(address) ? 'localhost' : family === 'IPv6' ? `[${address}]` : address
  const keyed = config.apiKey !== undefined || config.apiKeysFile !== undefined
  const key = keyed ? ' -H "x-api-key: $NATIVETOK_API_KEY"' : ''
  const query = kind === 'causal' ? `?length=${stages[0]}` : ''
  return `curl${key} -F images=@test/fixtures/photos/full/cat.jpg 'http://${host}:${port}/encode${query}'`
}
