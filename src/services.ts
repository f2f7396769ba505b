import type { InflightBytes } from './admission.ts'
import type { ApiKeys } from './api-keys.ts'
import type { Config } from './config.ts'
import type { Contract } from './contract.ts'
import type { Inference } from './inference/index.ts'
import type { Metrics } from './metrics.ts'

/** What the routes stand on. */
export interface Services {
  config: Config
  apiKeys: ApiKeys
  inference: Inference
  contract: Contract
  metrics: Metrics
  inflight: InflightBytes
  /** Set when the process was told to end: readiness fails from then on. */
  draining: boolean
}
