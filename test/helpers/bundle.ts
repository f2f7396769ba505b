import { fileURLToPath } from 'node:url'

/** The folder of the bundle that the tests use. */
export const BUNDLE = fileURLToPath(new URL('../../models/nativetok-128', import.meta.url))

/** The folder of a tiny format-2 bundle; `fixtures/bundles/make.py` describes what its graphs compute. */
export function tinyBundle(name: 'parallel' | 'state' | 'whole'): string {
  return fileURLToPath(new URL(`../fixtures/bundles/${name}`, import.meta.url))
}
