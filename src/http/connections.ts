import type { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'

const SWEEP_MS = 100
// An upload that stops for this long while the server closes is given up.
const MOST_IDLE_MS = 5_000

interface Connection {
  /** Requests whose head has arrived and whose answer is not out, in order. */
  open: Set<IncomingMessage>
  /** Bytes that had arrived when some last did, and when that was. */
  bytes: number
  since: number
}

/**
 * Gives the closing of the server a bound. Node waits for every connection that is not idle, and counts as such one that
 * has sent nothing, or half a head. While the server closes, a connection is kept only for the requests it has sent:
 * until they are answered, or until one in the middle of its body stops for five seconds.
 *
 * @param mostSeconds after which every connection that is left is closed, as those of clients that do not read
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
 * Asks clients to close their connections, from the moment that `ending` is true. A connection that is kept would hold up
 * the end. Where requests are pipelined the last one says it: those behind it would be lost.
 */
export function closeConnections(http: FastifyInstance, ending: () => boolean): void {
  const newest = new WeakMap<Socket, IncomingMessage>()
  http.server.on('request', (request) => newest.set(request.socket, request))
  http.addHook('onSend', async ({ raw }, reply) => {
    if (ending() && newest.get(raw.socket) === raw) reply.header('connection', 'close')
  })
}
