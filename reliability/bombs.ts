import { readFile, writeFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { poolSize } from '../src/formats/thread-pool.ts'
import { conforming } from '../tools/contract.ts'
import { Service } from '../tools/service.ts'
import { bodies, bombs as files, type HostileFile, impostors } from './hostile.ts'
import type { Finding, Scope } from './promise.ts'

/** Memory for the largest allowed image: 50 million pixels of eight bytes, and a margin. */
const MOST_MIB = 600
const MOST_SECONDS = 10

/** The longest time that other clients may wait meanwhile, in seconds. */
const MOST_HELD_UP = 3

/** Files and bodies that unpack to far more than their size, and files of other kinds sent as images. */
export async function* bombs({ long }: Scope): AsyncGenerator<Finding> {
  const service = await Service.start()
  try {
    let costliest: HostileFile | undefined
    for await (const file of files()) {
      yield await cost(service, file)
      if (file.name.includes('interlaced')) costliest = file
    }
    for (const body of bodies()) yield await cost(service, body)
    if (long && costliest) yield await cost(service, costliest, 4 * poolSize)
    yield await interpreted(service)
    yield {
      promise: 'the server and its engines survive all of these',
      figure: service.ended ? `ended with ${service.exit}` : 'alive',
      kept: !service.ended && (await statusOf(service, { name: '', bytes: Buffer.alloc(1) })) === 422,
    }
  } finally {
    await service.kill()
  }
}

/** The cost of one or several at once: time, memory, and how long others waited. */
async function cost(service: Service, file: HostileFile, count = 1): Promise<Finding> {
  const before = await resetPeak(service.pid)
  const start = performance.now()
  let over = false
  const answers = Promise.all(Array.from({ length: count }, () => statusOf(service, file))).finally(() => {
    over = true
  })
  let heldUp = 0
  while (!over) {
    const asked = performance.now()
    await fetch(`${service.url}/health/live`).catch(() => undefined)
    heldUp = Math.max(heldUp, (performance.now() - asked) / 1000)
    await sleep(10)
  }
  const statuses = [...new Set(await answers)]
  const seconds = (performance.now() - start) / 1000
  const grown = Math.max(0, (await memoryOf(service.pid)).peak - before)
  // The pool decodes as many images at a time as it has threads.
  const atOnce = Math.min(count, poolSize)
  return {
    promise: `${count > 1 ? `${count} times ` : ''}${file.name} (${sizeOf(file)}) costs no more than any image may`,
    figure: `${statuses.join(', ')}; ${seconds.toFixed(1)} s, ${grown.toFixed(0)} MiB; others waited ${heldUp.toFixed(2)} s`,
    kept:
      statuses.every((status) => typeof status === 'number' && status < 500) &&
      seconds < (MOST_SECONDS * count) / atOnce &&
      grown < MOST_MIB * atOnce &&
      heldUp < MOST_HELD_UP,
  }
}

function sizeOf({ bytes }: HostileFile): string {
  return bytes.length < 2 ** 20
    ? `${Math.ceil(bytes.length / 2 ** 10)} KiB`
    : `${(bytes.length / 2 ** 20).toFixed(1)} MiB`
}

/** Sends each file of another kind as an image, alone and as a part, and counts requests for the addresses in them. */
async function interpreted(service: Service): Promise<Finding> {
  const asked: string[] = []
  const server = createServer((request, response) => {
    asked.push(String(request.url))
    response.end()
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  try {
    const all = impostors(`http://127.0.0.1:${(server.address() as AddressInfo).port}`)
    const taken: string[] = []
    for (const file of all) {
      for (const multipart of [false, true]) {
        const status = await statusOf(service, file, multipart)
        if (status !== 415 && status !== 422) taken.push(`${file.name} ${status}`)
      }
    }
    return {
      promise:
        'files of other kinds named as images are refused with 415 or 422, and nothing that they name is asked for',
      figure: `${all.length - taken.length} of ${all.length} kinds refused; ${asked.length} asked for${taken.map((name) => `; ${name}`).join('')}`,
      kept: taken.length === 0 && asked.length === 0,
    }
  } finally {
    server.close()
  }
}

/** The answer's status if the answer conforms to the contract; else what is wrong with it. */
async function statusOf(service: Service, file: HostileFile, multipart = false): Promise<number | string> {
  const { bytes, path = '/encode', type = 'image/jpeg' } = file
  const form = new FormData()
  form.append('images', new Blob([bytes], { type: 'image/jpeg' }), 'photo.jpg')
  const raw = { body: bytes, headers: { 'content-type': type } }
  try {
    const answer = await fetch(`${service.url}${path}`, { method: 'POST', ...(multipart ? { body: form } : raw) })
    await conforming('POST', path, answer)
    return answer.status
  } catch (error) {
    return (error as Error).message
  }
}

/** Resets the peak memory of a process, and returns its memory now in MiB. Linux only. */
async function resetPeak(pid: number): Promise<number> {
  await writeFile(`/proc/${pid}/clear_refs`, '5')
  return (await memoryOf(pid)).now
}

/** Memory in MiB of the server, which unpacks images, without its engines; 0 after it has ended. */
async function memoryOf(pid: number): Promise<{ now: number; peak: number }> {
  const status = await readFile(`/proc/${pid}/status`, 'latin1').catch(() => '')
  const mib = (name: string) => Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(status)?.[1] ?? 0) / 1024
  return { now: mib('VmRSS'), peak: mib('VmHWM') }
}
