import { fileURLToPath } from 'node:url'

/** The folder of the bundle that the tests run on. */
export const BUNDLE = fileURLToPath(new URL('../../models/nativetok-128', import.meta.url))

/** The folder of a tiny bundle of format 2; `fixtures/bundles/make.py` says what its graphs compute. */
export function tinyBundle(name: 'parallel' | 'state' | 'whole'): string {
  return fileURLToPath(new URL(`../fixtures/bundles/${name}`, import.meta.url))
}
