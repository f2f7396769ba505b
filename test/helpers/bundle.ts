import { fileURLToPath } from 'node:url'

/** The folder of the bundle that the tests run on. */
export const BUNDLE = fileURLToPath(new URL('../../models/nativetok-128', import.meta.url))
