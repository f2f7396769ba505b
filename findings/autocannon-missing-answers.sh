#!/usr/bin/env bash
# autocannon does not count a request whose connection the server closed without an answer.
#
# Expected: a request that gets no answer shows up in `errors`, which the manual describes as connection errors.
# Seen:     the server closes the connection on every fifth request. autocannon connects again and goes on; errors, timeouts, resets
#           and non2xx are all 0. Only requests.sent minus requests.total shows that answers are missing.
# Hurts:    load tests of services that must not lose a request while they restart or drain: "0 errors" proves nothing.
# Versions: autocannon 9.0.0, Node 20 or later.
# Output:   sent 20, answered 16, errors 0, timeouts 0, resets 0, non2xx 0
set -euo pipefail

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
npm install --no-save --no-audit --no-fund --loglevel=error --prefix "$dir" autocannon@9.0.0

cat >"$dir/check.mjs" <<'EOF'
import assert from 'node:assert/strict'
import { once } from 'node:events'
import http from 'node:http'
import { createRequire } from 'node:module'
import autocannon from 'autocannon'

const { version } = createRequire(import.meta.url)('autocannon/package.json')
console.log(`autocannon ${version}, Node ${process.version}`)

let received = 0
let closed = 0
const server = http.createServer((request, response) => {
  received += 1
  if (received % 5 === 0) {
    closed += 1
    request.socket.destroy()
  } else {
    response.end('ok')
  }
})
await once(server.listen(0, '127.0.0.1'), 'listening')
const result = await autocannon({ url: `http://127.0.0.1:${server.address().port}`, connections: 1, amount: 20 })
server.close()
server.closeAllConnections()

const { errors, timeouts, resets, non2xx } = result
const { sent, total } = result.requests
console.log(`server: received ${received}, closed without an answer ${closed}`)
console.log(`autocannon: sent ${sent}, answered ${total}, errors ${errors}, timeouts ${timeouts}, resets ${resets}, non2xx ${non2xx}`)
assert.deepEqual({ received, closed, sent, total }, { received: 20, closed: 4, sent: 20, total: 16 })
assert.deepEqual({ errors, timeouts, resets, non2xx }, { errors: 0, timeouts: 0, resets: 0, non2xx: 0 })
EOF
node "$dir/check.mjs"
