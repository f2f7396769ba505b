import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

const SWEEP_MS = 100
// While the server closes, an upload that stalls for this long is aborted.
const MOST_IDLE_MS = 5_000

interface Connection {
  /** Requests whose head has arrived and whose answer is not sent yet, in order. */
  open: Set<IncomingMessage>
  /** How many bytes had arrived at the last check, and since when the number has not changed. */
  bytes: number
  since: number
}

/**
 * Limits how long closing the server takes. Node waits for connections that have sent nothing or half a head, because it
 * does not count them as idle. While the server closes, a connection stays open only until the requests that it has sent
 * are answered, or until an upload stalls for five seconds.
 *
 * @param mostSeconds after which all remaining connections are closed, for example if a client does not read its answer
 */
export function boundClosing(http: FastifyInstance, mostSeconds: number): void {
  const connections = new Map<Socket, Connection>()
  http.server.on('connection', (socket) => {
    connections.set(socket, { open: new Set(), bytes: 0, since: performance.now() })
    socket.once('close', () => connections.delete(socket))
  })
  http.server.on('request', (request, response) => {
    const open = connections.get(request.socket)?.open.add(request)
    response.once('close', () => open?.delete(request))
  })

  const sweep = () => {
    const now = performance.now()
    for (const [socket, connection] of connections) {
      if (socket.bytesRead !== connection.bytes) Object.assign(connection, { bytes: socket.bytesRead, since: now })
      const { open, since } = connection
      const uploading = [...open].some(({ complete }) => !complete)
      if (open.size === 0 || (uploading && open.size === 1 && now - since > MOST_IDLE_MS)) socket.destroy()
    }
  }
  http.addHook('preClose', async () => {
    sweep()
    const sweeping = setInterval(sweep, SWEEP_MS)
    const last = setTimeout(() => http.server.closeAllConnections(), mostSeconds * 1000)
    http.server.once('close', () => {
      clearInterval(sweeping)
      clearTimeout(last)
    })
  })
}

/**
 * Sends `Connection: close` while `ending()` is true, so that connections do not stay open. Of pipelined requests only
 * the last one gets it, because those behind it would be lost.
 */
export function closeConnections(http: FastifyInstance, ending: () => boolean): void {
  const newest = new WeakMap<Socket, IncomingMessage>()
  http.server.on('request', (request) => newest.set(request.socket, request))
  http.addHook('onSend', async ({ raw }, reply) => {
    if (ending() && newest.get(raw.socket) === raw) reply.header('connection', 'close')
  })
}
