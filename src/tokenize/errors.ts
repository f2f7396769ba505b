/** The command cannot be carried out as it stands: one sentence for the user, exit status 2. */
export class OptionsError extends Error {}

/** What was named is not there. */
export class AbsentError extends OptionsError {}

/** One image cannot be tokenized: `message` continues a sentence that names it. The others go on. */
export class ItemError extends Error {}

/** The run was asked to stop. */
export class StoppedError extends Error {}

/** The message of an error, or any other thrown value as text. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** What to throw when an input cannot be opened: naming what is not there is the user's mistake, anything else is not. */
export function unreadable(path: string, error: unknown): Error {
  const { code } = error as { code?: unknown }
  const sentence = `${path} cannot be read (${messageOf(error)})`
  return code === 'ENOENT' || code === 'ENOTDIR' ? new AbsentError(sentence) : new Error(sentence, { cause: error })
}

/** What to throw when reading a file fails midway: an error of the system, which may pass, is kept as the cause. */
export function readFailed(sentence: string, error: unknown): Error {
  const passing = (error as { code?: unknown }).code !== undefined
  return new Error(`${sentence} (${messageOf(error)})`, passing ? { cause: error } : {})
}
