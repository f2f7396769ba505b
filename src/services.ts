import type { ApiKeys } from './access/api-keys.ts'
import type { Config } from './config.ts'
import type { InflightBytes } from './http/admission.ts'
import type { Contract } from './http/contract.ts'
import type { Inference } from './inference/inference.ts'
import type { Metrics } from './observability/metrics.ts'

/** What the routes use. */
export interface Services {
  config: Config
  apiKeys: ApiKeys
  inference: Inference
  contract: Contract
  metrics: Metrics
  inflight: InflightBytes
  /** Set when the process shuts down: readiness fails from then on. */
  draining: boolean
}
