export { ModelChangedError, NativetokError, type Problem, ProblemError, UnreachableError } from './errors.ts'
export type { Image, Info, Many, Row } from './requests.ts'
export {
  type Codebook,
  type ConnectOptions,
  type DecodeOptions,
  type EncodeOptions,
  Tokenizer,
  type WorkOptions,
} from './tokenizer.ts'
