import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { after, before, describe, test } from 'node:test'
import { readConfig, settingsTable } from '../../src/config.ts'
import { Helm, type KubernetesObject } from '../helpers/helm.ts'
import { faultsOf } from '../helpers/kubernetes.ts'
import { type Backend, configOf, formOf, listen, photos, type Service, startBackend } from '../helpers/service.ts'

// The few fields of Kubernetes' objects that the tests read.
interface Pod {
  automountServiceAccountToken: boolean
  enableServiceLinks: boolean
  terminationGracePeriodSeconds: number
  restartPolicy?: string
  securityContext: Record<string, unknown>
  topologySpreadConstraints: { labelSelector: Selector; matchLabelKeys: string[] }[]
  containers: Container[]
  volumes: ({ name: string } & Record<string, unknown>)[]
}
interface Container {
  name: string
  image: string
  command?: string[]
  args?: string[]
  env?: { name: string; value: string }[]
  ports: { name: string; containerPort: number }[]
  resources: Record<'requests' | 'limits', Record<string, string | number>>
  securityContext: Record<string, unknown>
  volumeMounts?: { name: string; mountPath: string; readOnly?: boolean }[]
  startupProbe: Probe
  readinessProbe: Probe
  livenessProbe: Probe
}
interface Probe {
  httpGet: { path: string; port: string }
  periodSeconds: number
  failureThreshold: number
}
interface Selector {
  matchLabels: Record<string, string>
}
interface Rule {
  ports: { port: string }[]
  from?: object[]
}

const chart = join(import.meta.dirname, '..', '..', 'deploy', 'chart')
const schema = JSON.parse(readFileSync(join(chart, 'values.schema.json'), 'utf8'))
/** The flags that choose each values file; the first is the chart as it is. */
const valuesFiles: Record<string, string[]> = {
  default: [],
  ...Object.fromEntries(
    readdirSync(join(chart, 'values')).map((file) => [file.replace('.yaml', ''), ['-f', join(chart, 'values', file)]]),
  ),
}

const found = await Helm.fetch()
const skip = typeof found === 'string' && `NOT CHECKED: ${found}`
if (skip) console.log(`${skip}, so the chart is not rendered`)

describe('the Helm chart', { skip }, () => {
  const helm = found as Helm
  const rendered: Record<string, KubernetesObject[]> = {}
  let backend: Backend
  let service: Service

  const render = (...flags: string[]) => helm.render(chart, ...flags)
  const of = (name: string) => rendered[name] as KubernetesObject[]
  const serving = () => Object.keys(rendered).filter((name) => name !== 'job')

  before(async () => {
    for (const [name, flags] of Object.entries(valuesFiles)) rendered[name] = await render(...flags)
    backend = await startBackend()
    service = await listen(backend)
  })
  after(async () => {
    await service.http.close()
    await backend.inference.close()
    await helm.remove()
  })

  test('passes helm lint with every values file', async () => {
    for (const flags of Object.values(valuesFiles)) await helm.run('lint', '--strict', '--quiet', chart, ...flags)
  })

  test('renders the objects that each values file is for', () => {
    const kinds = (name: string) => of(name).map(({ kind }) => kind)
    const always = ['NetworkPolicy', 'PodDisruptionBudget', 'Service', 'Deployment']
    assert.deepEqual(kinds('default').sort(), always.toSorted())
    assert.deepEqual(kinds('gpu').sort(), always.toSorted())
    assert.deepEqual(kinds('keda').sort(), [...always, 'ScaledObject', 'ServiceMonitor'].sort())
    assert.deepEqual(kinds('production').sort(), [...always, 'HorizontalPodAutoscaler', 'ServiceMonitor'].sort())
    assert.deepEqual(kinds('job').sort(), ['Job', 'NetworkPolicy'])
    assert.deepEqual(Object.keys(rendered).sort(), ['default', 'gpu', 'job', 'keda', 'production'])
  })

  test('renders only fields and values that Kubernetes, Prometheus Operator and KEDA have', async () => {
    const used = ['model.volume.persistentVolumeClaim.claimName=models', 'image.pullSecrets={registry}', 'gpu.count=2']
    const more = await render('--set', used.join())
    assert.deepEqual(await faultsOf([...Object.values(rendered).flat(), ...more]), [])
  })

  test('is checked by schemas that notice a misspelt field and a wrong value', async () => {
    for (const [change, fault] of [
      [(container: Record<string, unknown>) => Object.assign(container, { readynessProbe: {} }), /readynessProbe/],
      [
        (container: Record<string, unknown>) => Object.assign(container, { ports: [{ containerPort: 'http' }] }),
        /integer/,
      ],
      [(container: Record<string, unknown>) => Object.assign(container, { imagePullPolicy: 7 }), /string/],
    ] as const) {
      const deployment = structuredClone(get(of('default'), 'Deployment'))
      change(containerOf(deployment) as unknown as Record<string, unknown>)
      assert.match((await faultsOf([deployment])).join('\n'), fault)
    }
    const scaled = structuredClone(get(of('keda'), 'ScaledObject'))
    Object.assign(scaled.spec, { maxReplicas: 3 })
    assert.match((await faultsOf([scaled])).join('\n'), /maxReplicas/)
  })

  test('passes settings that the service takes, with the meaning that they have in its documentation', async () => {
    for (const name of serving()) {
      const { env = [] } = containerOf(get(of(name), 'Deployment'))
      const config = settingsOf(env)
      assert.equal(config.host, '0.0.0.0', name)
      assert.equal(config.apiKeysFile, '/etc/nativetok/keys', name)
    }
    const production = settingsOf(containerOf(get(of('production'), 'Deployment')).env)
    assert.deepEqual([production.drainDelay, production.queueLimit, production.guard], [15, 2048, ['metrics']])

    // Large numbers as they come from a values file, and fractions as they come from a command line: as texts.
    const values = {
      ...{ 'max-pixels': 90_000_000, 'body-limit': '1MiB', 'json-body-limit': 65_536, 'request-timeout': '0.5' },
      ...{ 'max-batch': 8, tf32: 'on', 'trust-proxy': '10.0.0.0/8', 'drain-delay': 0 },
    }
    const flags = ['--set-json', `config=${JSON.stringify(values)}`]
    const config = settingsOf(containerOf(get(await render(...flags), 'Deployment')).env)
    const { maxPixels, bodyLimit, jsonBodyLimit, requestTimeout, maxBatch, tf32, trustProxy, drainDelay } = config
    assert.deepEqual([maxPixels, bodyLimit, jsonBodyLimit, requestTimeout], [90_000_000, 2 ** 20, 2 ** 16, 0.5])
    assert.deepEqual([maxBatch, tf32, trustProxy, drainDelay], [8, true, ['10.0.0.0/8'], 0])
  })

  test('knows every setting of the service, but for those that it sets itself', () => {
    const flags = [...settingsTable().matchAll(/^\| `--([a-z0-9-]+) </gm)].map(([, flag]) => flag as string)
    const own = ['host', 'port', 'model', 'cache', 'provider', 'devices', 'api-key', 'api-keys-file']
    const expected = flags.filter((flag) => !own.includes(flag))
    assert.ok(expected.length > 10)
    assert.deepEqual(Object.keys(schema.properties.config.properties).sort(), expected.sort())
  })

  test('gives CUDA devices to a pod with GPUs, one engine each', async () => {
    const container = containerOf(get(await render('--set', 'gpu.count=3'), 'Deployment'))
    const config = settingsOf(container.env)
    assert.deepEqual([config.provider, config.devices], ['cuda', [0, 1, 2]])
    assert.equal(container.resources.limits['nvidia.com/gpu'], 3)
    assert.match(containerOf(get(of('gpu'), 'Deployment')).image, /cuda/)
    const job = await render('-f', join(chart, 'values', 'job.yaml'), '--set', 'gpu.count=2')
    assert.match((containerOf(get(job, 'Job')).args ?? []).join(' '), / --provider cuda --devices 0,1 /)
    assert.equal(settingsOf(containerOf(get(of('default'), 'Deployment')).env).provider, 'cpu')
  })

  test('gives pods time to drain, to finish the longest request and to end', async () => {
    const slow = await render('--set', 'config.drain-delay=20,config.request-timeout=120')
    for (const objects of [slow, ...serving().map(of)]) {
      const deployment = get(objects, 'Deployment')
      const { drainDelay, requestTimeout } = settingsOf(containerOf(deployment).env)
      // After the drain delay it ends at the latest 5 seconds after the longest request.
      assert.ok(podOf(deployment).terminationGracePeriodSeconds >= drainDelay + requestTimeout + 10)
      assert.ok((deployment.spec.minReadySeconds as number) >= drainDelay)
    }
  })

  test('probes routes that answer, on the port that the container has', async () => {
    for (const name of serving()) {
      const container = containerOf(get(of(name), 'Deployment'))
      const [port] = container.ports
      assert.equal(port?.containerPort, settingsOf(container.env).port)
      for (const { httpGet } of [container.startupProbe, container.readinessProbe, container.livenessProbe]) {
        assert.equal(httpGet.port, port?.name)
        assert.equal((await fetch(`${service.base}${httpGet.path}`)).status, 200, httpGet.path)
      }
      // A pod that is told to end is taken out of the Service before its drain delay is over.
      const { readinessProbe } = container
      assert.equal(readinessProbe.httpGet.path, '/health/ready')
      assert.ok(readinessProbe.periodSeconds * readinessProbe.failureThreshold < settingsOf(container.env).drainDelay)
    }
    const { startupProbe } = containerOf(get(of('gpu'), 'Deployment'))
    assert.equal(startupProbe.periodSeconds * startupProbe.failureThreshold, 600)
  })

  test('keeps serving while it is updated, drained and scaled', async () => {
    for (const name of serving()) {
      const deployment = get(of(name), 'Deployment')
      const { maxUnavailable } = (deployment.spec.strategy as { rollingUpdate: { maxUnavailable: number } })
        .rollingUpdate
      const autoscaled = of(name).some(({ kind }) => /Autoscaler|ScaledObject/.test(kind))
      // A number here would undo what an autoscaler has done, with each release.
      assert.equal('replicas' in deployment.spec, !autoscaled)
      const [scaler] = of(name).filter(({ kind }) => /Autoscaler|ScaledObject/.test(kind))
      const least = deployment.spec.replicas ?? scaler?.spec.minReplicas ?? scaler?.spec.minReplicaCount
      assert.ok((least as number) > maxUnavailable, name)
      assert.ok((least as number) > (get(of(name), 'PodDisruptionBudget').spec.maxUnavailable as number), name)
    }
  })

  test('selects its own pods with everything that selects pods', () => {
    for (const name of serving()) {
      const objects = of(name)
      const deployment = get(objects, 'Deployment')
      const { labels } = (deployment.spec.template as { metadata: { labels: Record<string, string> } }).metadata
      const selectors: [string, Record<string, string>][] = [
        ['Deployment', (deployment.spec.selector as Selector).matchLabels],
        ['Service', get(objects, 'Service').spec.selector as Record<string, string>],
        ['PodDisruptionBudget', (get(objects, 'PodDisruptionBudget').spec.selector as Selector).matchLabels],
        ['NetworkPolicy', (get(objects, 'NetworkPolicy').spec.podSelector as Selector).matchLabels],
        ...podOf(deployment).topologySpreadConstraints.map(
          ({ labelSelector }) => ['topology spread', labelSelector.matchLabels] as [string, Record<string, string>],
        ),
      ]
      for (const [what, selector] of selectors) {
        assert.ok(Object.keys(selector).length > 0 && matches(selector, labels), `${name}: ${what}`)
      }
      const [port] = get(objects, 'Service').spec.ports as { name: string; targetPort: string }[]
      assert.equal(port?.targetPort, containerOf(deployment).ports[0]?.name)
      const monitor = objects.find(({ kind }) => kind === 'ServiceMonitor')
      if (monitor !== undefined) {
        const served = get(objects, 'Service').metadata.labels ?? {}
        assert.ok(matches((monitor.spec.selector as Selector).matchLabels, served), name)
        assert.equal((monitor.spec.endpoints as { port: string }[])[0]?.port, port?.name)
      }
      for (const { kind, spec } of objects.filter(({ kind }) => /Autoscaler|ScaledObject/.test(kind))) {
        const { name: target, kind: targetKind } = spec.scaleTargetRef as { name: string; kind: string }
        assert.deepEqual([targetKind, target], ['Deployment', deployment.metadata.name], kind)
      }
    }
  })

  test('keeps two releases in one namespace apart', async () => {
    const other = await helm.run('template', 'other', chart)
    assert.match(other, /name: other-nativetok$/m)
    const selector = (get(of('default'), 'Deployment').spec.selector as Selector).matchLabels
    assert.equal(selector['app.kubernetes.io/instance'], 'nativetok')
    assert.match(other, /app\.kubernetes\.io\/instance: other$/m)
  })

  test('scales by metrics that the service has', async () => {
    const start = performance.now()
    for (const photo of photos) await fetch(`${service.base}/encode`, { method: 'POST', body: formOf([photo]) })
    const served = await (await fetch(`${service.base}/metrics`)).text()
    const seconds = (performance.now() - start) / 1000
    const metrics = get(of('production'), 'HorizontalPodAutoscaler').spec.metrics as {
      type: string
      pods?: { metric: { name: string } }
      resource?: { name: string }
    }[]
    assert.deepEqual(
      metrics.map(({ pods, resource }) => pods?.metric.name ?? resource?.name),
      ['nativetok_queue_depth', 'cpu'],
    )
    const triggers = get(of('keda'), 'ScaledObject').spec.triggers as {
      metadata: { query: string; threshold: string; ignoreNullValues: string }
    }[]
    const queries = triggers.map(({ metadata }) => metadata.query)
    const named = [...metrics.flatMap(({ pods }) => pods?.metric.name ?? []), ...queries]
      .join(' ')
      .match(/nativetok_\w+/g)
    assert.equal(new Set(named).size, 3)
    for (const name of named ?? []) assert.match(served, new RegExp(`^${name}[{ ]`, 'm'))
    // The time in graphs, per second, is the number of engines at work: never more than there are.
    const busy = [...served.matchAll(/^nativetok_graph_duration_seconds_sum\{.*\} (.+)$/gm)].map(([, sum]) =>
      Number(sum),
    )
    const share = busy.reduce((sum, one) => sum + one, 0) / seconds
    assert.ok(share > 0.1 && share <= backend.inference.info.engines, `${share}`)
    for (const { metadata } of triggers) {
      // Only this release's pods count, and no data is not taken for no load.
      assert.match(metadata.query, /\{namespace="ml",service="nativetok"\}/)
      assert.equal(metadata.ignoreNullValues, 'false')
      assert.ok(Number(metadata.threshold) > 0)
    }
  })

  test('adds no processor time to the scaling of pods that compute on GPUs', async () => {
    const objects = await render('-f', join(chart, 'values', 'gpu.yaml'), '--set', 'autoscaling.kind=hpa')
    const metrics = get(objects, 'HorizontalPodAutoscaler').spec.metrics as { type: string }[]
    assert.deepEqual(
      metrics.map(({ type }) => type),
      ['Pods'],
    )
  })

  test('lets in probes, clients and Prometheus, and nothing out', async () => {
    for (const name of serving()) {
      const { ingress, egress, policyTypes } = get(of(name), 'NetworkPolicy').spec as {
        ingress: Rule[]
        egress: object[]
        policyTypes: string[]
      }
      assert.deepEqual(policyTypes, ['Ingress', 'Egress'])
      assert.deepEqual(egress, [])
      const { startupProbe, readinessProbe, livenessProbe } = containerOf(get(of(name), 'Deployment'))
      for (const { httpGet } of [startupProbe, readinessProbe, livenessProbe]) {
        assert.ok(ingress.some(({ ports }) => ports.some(({ port }) => port === httpGet.port)))
      }
    }
    // Without peers, everyone may connect; an empty list of peers would say so as well, but reads like nobody.
    assert.deepEqual(
      (get(of('default'), 'NetworkPolicy').spec.ingress as Rule[]).map(({ from }) => from),
      [undefined],
    )
    const [rule] = get(of('production'), 'NetworkPolicy').spec.ingress as Rule[]
    const namespaces = JSON.stringify(rule?.from)
    assert.match(namespaces, /ingress-nginx/)
    assert.match(namespaces, /monitoring/)

    const policy = get(of('job'), 'NetworkPolicy').spec
    assert.deepEqual([policy.ingress, policy.egress, policy.policyTypes], [[], [], ['Ingress', 'Egress']])
  })

  test('grants containers no privileges, and nothing to write to but what they need', () => {
    for (const [name, objects] of Object.entries(rendered)) {
      const workload = objects.find(({ kind }) => kind === 'Deployment' || kind === 'Job') as KubernetesObject
      const pod = podOf(workload)
      assert.deepEqual([pod.automountServiceAccountToken, pod.enableServiceLinks], [false, false], name)
      const { runAsNonRoot, runAsUser, seccompProfile } = pod.securityContext
      assert.deepEqual([runAsNonRoot, runAsUser, seccompProfile], [true, 1000, { type: 'RuntimeDefault' }], name)
      assert.equal(pod.containers.length, 1)
      assert.deepEqual(containerOf(workload).securityContext, {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      })
      const writable = (containerOf(workload).volumeMounts ?? []).filter(({ readOnly }) => !readOnly)
      const expected: Record<string, string[]> = { gpu: ['cache', 'cuda-cache'], job: ['cache', 'output'] }
      assert.deepEqual(
        writable.map((mount) => mount.name),
        expected[name] ?? ['cache'],
        name,
      )
      const { requests, limits } = containerOf(workload).resources
      assert.deepEqual(requests, limits)
    }
  })

  test('takes keys from a secret, mounted so that they can be replaced', async () => {
    const deployment = get(of('default'), 'Deployment')
    const mount = (containerOf(deployment).volumeMounts ?? []).find(({ name }) => name === 'keys')
    assert.ok(settingsOf(containerOf(deployment).env).apiKeysFile?.startsWith(`${mount?.mountPath}/`))
    assert.ok(!('subPath' in (mount ?? {})))
    const secret = podOf(deployment).volumes.find(({ name }) => name === mount?.name)?.secret
    assert.deepEqual(secret, { secretName: 'nativetok-keys', defaultMode: 0o440 })
    const open = containerOf(get(await render('--set', 'apiKeysSecret='), 'Deployment'))
    assert.equal(settingsOf(open.env).apiKeysFile, undefined)
  })

  test('keeps the cache in a volume of its own, which pods may share', async () => {
    const mountOf = (object: KubernetesObject) =>
      (containerOf(object).volumeMounts ?? []).find(({ name }) => name === 'cache')?.mountPath
    for (const object of [get(of('default'), 'Deployment'), get(of('job'), 'Job')]) {
      const [volume] = podOf(object).volumes
      assert.deepEqual(volume, { name: 'cache', emptyDir: {} })
      const set = containerOf(object).env?.find(({ name }) => name === 'NATIVETOK_CACHE')
      assert.equal(set?.value, mountOf(object))
    }
    const path = '/var/cache/nativetok'
    const shared = get(await render('--set-json', `cacheVolume={"hostPath":{"path":"${path}"}}`), 'Deployment')
    assert.deepEqual(podOf(shared).volumes[0], { name: 'cache', hostPath: { path } })
  })

  test('gives Prometheus a key where metrics need one', () => {
    const monitor = get(of('production'), 'ServiceMonitor').spec.endpoints as { authorization?: object; path: string }[]
    assert.deepEqual(monitor[0]?.authorization, { credentials: { name: 'nativetok-prometheus', key: 'key' } })
    assert.equal(monitor[0]?.path, '/metrics')
    assert.equal('authorization' in ((get(of('keda'), 'ServiceMonitor').spec.endpoints as object[])[0] ?? {}), false)
  })

  test('tokenizes each part once, into a folder of its own', async () => {
    const { spec } = get(of('job'), 'Job')
    assert.deepEqual([spec.completionMode, spec.completions, spec.parallelism], ['Indexed', 64, 8])
    const { args = [] } = containerOf(get(of('job'), 'Job'))
    const option = (name: string) => args[args.indexOf(name) + 1]
    assert.deepEqual(args.slice(0, 3), ['/app/bin/nativetok', 'tokenize', '/input/imagenet-train'])
    assert.equal(option('--part'), `$(JOB_COMPLETION_INDEX)/${spec.completions}`)
    assert.equal(option('--out'), '/output/nativetok/part-$(JOB_COMPLETION_INDEX)')
    assert.deepEqual([option('--format'), option('--crops')], ['parquet', 'ten'])
    const options = ['--set-json', 'job.options=["--shard-size", 2000000, "--engines", 4]']
    const numbers = await render('-f', join(chart, 'values', 'job.yaml'), ...options)
    assert.deepEqual(containerOf(get(numbers, 'Job')).args?.slice(-4), ['--shard-size', '2000000', '--engines', '4'])
    const mounts = (containerOf(get(of('job'), 'Job')).volumeMounts ?? []).map(({ mountPath }) => mountPath)
    assert.deepEqual(mounts, ['/var/cache/nativetok', '/input', '/output'])
    // Two pods must never write one part.
    assert.equal(spec.podReplacementPolicy, 'Failed')
  })

  test('goes on with a part after a disruption, and stops at once at wrong options', () => {
    const { spec } = get(of('job'), 'Job')
    assert.ok((spec.backoffLimitPerIndex as number) > 0)
    assert.ok((spec.maxFailedIndexes as number) < (spec.completions as number))
    assert.equal(podOf(get(of('job'), 'Job')).restartPolicy, 'Never')
    const { rules } = spec.podFailurePolicy as {
      rules: { action: string; onPodConditions?: object[]; onExitCodes?: Record<string, unknown> }[]
    }
    assert.deepEqual(rules, [
      { action: 'Ignore', onPodConditions: [{ type: 'DisruptionTarget', status: 'True' }] },
      { action: 'FailJob', onExitCodes: { containerName: 'tokenize', operator: 'In', values: [2] } },
    ])
    assert.equal(containerOf(get(of('job'), 'Job')).name, 'tokenize')
  })

  test('refuses wrong values with a sentence that names them', async () => {
    for (const [values, message] of [
      ['config.max-bach=3', /\/config'.*'max-bach' not allowed/],
      ['replica=3', /'replica' not allowed/],
      ['replicas=no', /\/replicas'.*want integer/],
      ['mode=both', /\/mode'.*one of.*serve.*tokenize/],
      ['config.guard=health', /\/config\/guard'/],
      ['config.body-limit=1MB', /\/config\/body-limit'/],
      ['config.queue-limit=0', /\/config\/queue-limit'/],
      ['resources.memory=3', /\/resources\/memory'/],
      ['autoscaling.kind=vpa', /\/autoscaling\/kind'/],
      ['config.guard=metrics,apiKeysSecret=', /without apiKeysSecret nobody has a key/],
      ['config.guard=metrics,serviceMonitor.enabled=true', /serviceMonitor\.keySecret must name the secret/],
      ['networkPolicy.clients[0].podSelector.matchLabels.a=b', /networkPolicy\.prometheus must say where/],
      ['config.otlp-endpoint=http://collector:4318', /networkPolicy\.egress must let traces out/],
      ['autoscaling.min=5,autoscaling.max=3', /autoscaling\.min \(5\) is larger than autoscaling\.max \(3\)/],
      ['autoscaling.kind=keda,serviceMonitor.enabled=true', /autoscaling\.prometheusUrl must say/],
      ['autoscaling.kind=keda,autoscaling.prometheusUrl=http://p:9090', /serviceMonitor\.enabled/],
      ['rollingUpdate.maxSurge=0', /no pod could ever be replaced/],
      ['mode=tokenize', /job\.inputVolume must say/],
      ['mode=tokenize,job.inputVolume.emptyDir.medium=Memory', /job\.outputVolume must say/],
      ['mode=tokenize,config.threads=2', /config is for mode serve/],
      ['job.input=/data', /\/job\/input'/],
    ] as const) {
      await assert.rejects(render('--set', values), message, values)
    }
  })

  test('has the version of the service', async () => {
    const { version } = JSON.parse(readFileSync(join(chart, '..', '..', 'package.json'), 'utf8'))
    assert.match(await helm.run('show', 'chart', chart), new RegExp(`^appVersion: ${version}$`, 'm'))
    assert.ok(containerOf(get(of('default'), 'Deployment')).image.endsWith(`:${version}`))
    assert.ok(containerOf(get(of('gpu'), 'Deployment')).image.includes(`:${version}`))
  })
})

function get(objects: readonly KubernetesObject[], kind: string): KubernetesObject {
  const object = objects.find((one) => one.kind === kind)
  assert.ok(object, `there is no ${kind}`)
  return object
}

function podOf({ spec }: KubernetesObject): Pod {
  return (spec.template as { spec: Pod }).spec
}

function containerOf(workload: KubernetesObject): Container {
  const [container] = podOf(workload).containers
  assert.ok(container)
  return container
}

/** What the service makes of a container's environment. */
function settingsOf(env: Container['env'] = []) {
  const variables = env.filter(({ name }) => name.startsWith('NATIVETOK_'))
  for (const { name, value } of env) {
    assert.equal(typeof value, 'string', name)
    assert.ok(!name.startsWith('NATIVETOK_') || settingsTable().includes(`\`${name}\``), name)
  }
  const defaults = configOf()
  const { host, ...config } = readConfig([], Object.fromEntries(variables.map(({ name, value }) => [name, value])))
  return { ...defaults, ...config, host }
}

function matches(selector: Record<string, string>, labels: Record<string, string>): boolean {
  return Object.entries(selector).every(([label, value]) => labels[label] === value)
}
