import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { type TestContext, test } from 'node:test'
import { setTimeout as sleep } from 'node:timers/promises'
import { evenArrivals, keepAliveAgent, poissonArrivals, sendWhenDue } from '../../tools/arrivals.ts'
import { decodeCall } from '../../tools/calls.ts'
import { freePort } from '../../tools/free-port.ts'
import { Random } from '../../tools/random.ts'

const calls = [1, 2, 3].map((id) => decodeCall([id]))

async function serve(t: TestContext, answer: RequestListener): Promise<string> {
  const server = createServer(answer)
  await once(server.listen(0, '127.0.0.1'), 'listening')
  t.after(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

async function outcomesOf(url: string, arrivals: Parameters<typeof sendWhenDue>[1]) {
  const agent = keepAliveAgent()
  const outcomes = await Promise.all(await sendWhenDue(url, arrivals, agent))
  agent.destroy()
  return outcomes
}

test('Poisson arrivals have the requested rate and gaps of all lengths, and repeat with their seed', () => {
  const arrivals = poissonArrivals(calls, 50, 100, new Random(1))
  assert.ok(
    Math.abs(arrivals.length - 5000) < 4 * Math.sqrt(5000),
    `${arrivals.length} arrivals in 100 s at 50 per second`,
  )
  const gaps = arrivals.slice(1).map(({ due }, i) => due - (arrivals[i]?.due as number))
  const longerThanMean = gaps.filter((gap) => gap > 20).length / gaps.length
  assert.ok(Math.abs(longerThanMean - Math.exp(-1)) < 0.03, `${longerThanMean} of exponential gaps exceed their mean`)
  assert.deepEqual(new Set(arrivals.map(({ call }) => call)), new Set(calls))
  assert.deepEqual(poissonArrivals(calls, 50, 100, new Random(1)), arrivals)
  assert.notDeepEqual(poissonArrivals(calls, 50, 100, new Random(2)), arrivals)
})

test('requests are sent when they are due, although none has been answered', async (t) => {
  let waiting = 0
  let most = 0
  const url = await serve(t, async (_, response) => {
    most = Math.max(most, ++waiting)
    await sleep(500)
    waiting--
    response.end()
  })
  const outcomes = await outcomesOf(url, evenArrivals(calls, 50, 0.2))
  assert.deepEqual([outcomes.length, most], [10, 10])
  assert.ok(outcomes.every(({ due, done, outcome }) => outcome === 200 && done - due >= 490))
})

test('latency counts from when a request was due, even if the client could not send it in time', async (t) => {
  const url = await serve(t, (_, response) => response.end())
  const under = outcomesOf(url, evenArrivals(calls, 100, 0.1))
  const until = performance.now() + 300
  while (performance.now() < until);
  const late = (await under).at(-1)
  assert.ok(late && late.sent - late.due > 150 && late.done - late.due >= late.sent - late.due)
})

test('other statuses and failures are counted separately', async (t) => {
  const url = await serve(t, (_, response) => response.writeHead(503, { 'retry-after': '2' }).end())
  const [refused] = await outcomesOf(url, evenArrivals(calls, 10, 0.1))
  assert.deepEqual([refused?.outcome, refused?.retryAfter], [503, 2])
  const [failed] = await outcomesOf(`http://127.0.0.1:${await freePort()}`, evenArrivals(calls, 10, 0.1))
  assert.equal(failed?.outcome, 'ECONNREFUSED')
})
