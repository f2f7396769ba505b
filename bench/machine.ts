import { readFile } from 'node:fs/promises'
import { cpus, totalmem } from 'node:os'
import { join } from 'node:path'

/** The machine and the versions that the numbers belong to. */
export async function describeMachine(cores: number, model: string): Promise<Record<string, string | number>> {
  const read = (...path: string[]) => readFile(join(import.meta.dirname, ...path), 'utf8')
  const pkg = JSON.parse(await read('..', 'package.json')) as { dependencies: Record<string, string> }
  const pinned = `${await read('peers', 'requirements.txt')}${await read('peers', 'requirements-ray.txt')}`
  const python = (name: string) => new RegExp(`^${name}==(.+)$`, 'm').exec(pinned)?.[1] ?? ''
  const manifest = JSON.parse(await readFile(join(model, 'manifest.json'), 'utf8')) as { name: string }
  return {
    date: new Date().toISOString(),
    processor: cpus()[0]?.model ?? '',
    cores,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${process.platform} ${process.arch}`,
    node: process.version,
    bundle: manifest.name,
    'onnxruntime-node': pkg.dependencies['onnxruntime-node'] ?? '',
    sharp: pkg.dependencies.sharp ?? '',
    fastify: pkg.dependencies.fastify ?? '',
    'onnxruntime (Python)': python('onnxruntime'),
    fastapi: python('fastapi'),
    uvicorn: python('uvicorn'),
    pillow: python('pillow'),
    ray: python('ray'),
  }
}
