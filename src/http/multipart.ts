/**
 * Multipart form data (RFC 7578, RFC 2046), read strictly. This is our own code because busboy, the usual parser, silently
 * skips parts that it does not understand, for example after white space behind a boundary. Here that would give fewer
 * rows than images, and every later row would belong to another image. So a body that two parsers could split differently
 * is refused.
 */

/** The body is not valid form data. `message` tells its sender why. */
export class MultipartError extends Error {}

export interface Part {
  /** The name of the form field. */
  field: string
  /** Whether it has a file name. Browsers and HTTP libraries send one with files, not with text. */
  isFile: boolean
  /** A view of the body. */
  bytes: Buffer
}

const parameter = /;[ \t]*(?:([\w!#$%&'*+.^`|~-]+)=(?:"((?:[^"\\]|\\.)*)"|([^;",\s]+)))?[ \t]*/y

/**
 * Splits a body at its boundary.
 *
 * @param contentType the request's header, which names the boundary
 * @param onPart called with the count of parts at each one that is found; it may throw to stop
 * @throws MultipartError on anything that is not exactly a sequence of form fields between delimiters
 */
export function splitParts(contentType: string, body: Buffer, onPart: (count: number) => void): Part[] {
  const delimiter = `--${boundaryOf(contentType)}`
  const delimiters = findDelimiters(body, delimiter, onPart)
  const last = delimiters.pop()
  if (last === undefined) throw new MultipartError(`there is no line ${JSON.stringify(delimiter)}`)
  if (!last.closing) throw new MultipartError(`it does not end with ${JSON.stringify(`${delimiter}--`)}; it is cut off`)
  const early = delimiters.findIndex(({ closing }) => closing)
  if (early >= 0) throw new MultipartError('there are parts after its end')
  return delimiters.map(({ end }, index) => {
    const { start } = delimiters[index + 1] ?? last
    // The line break before a delimiter belongs to the delimiter.
    return partOf(body.subarray(end, Math.max(end, start - 2)), index)
  })
}

interface Delimiter {
  /** Where its dashes begin, and where the line behind it does. */
  start: number
  end: number
  closing: boolean
}

/** Finds every line that begins with the delimiter. */
function findDelimiters(body: Buffer, delimiter: string, onPart: (count: number) => void): Delimiter[] {
  const found: Delimiter[] = []
  const add = (start: number) => {
    const end = start + delimiter.length
    const behind = body.toString('latin1', end, end + MOST_PADDING)
    const [line, dashes, lineEnd] = /^(--)?[ \t]*(\r\n|\n|$)/.exec(behind) ?? []
    const closing = dashes !== undefined
    if (line === undefined || (!closing && lineEnd !== '\r\n')) {
      throw new MultipartError('a line begins with its boundary and does not end there with CR and LF')
    }
    found.push({ start, end: end + line.length, closing })
    if (!closing) onPart(found.length)
  }
  if (body.indexOf(delimiter, 0, 'latin1') === 0) add(0)
  const line = `\n${delimiter}`
  for (let at = body.indexOf(line, 0, 'latin1'); at >= 0; at = body.indexOf(line, at + line.length, 'latin1')) {
    if (body[at - 1] !== CR) throw new MultipartError('its lines do not end with CR and LF')
    add(at + 1)
  }
  // Some parsers treat a lone CR as the end of a line.
  if (body.includes(`\r${delimiter}`, 0, 'latin1')) throw new MultipartError('its lines do not end with CR and LF')
  return found
}

const CR = 0x0d
// RFC 2046 allows gateways to append white space to a boundary.
const MOST_PADDING = 256

/** The boundary that the Content-Type names. */
function boundaryOf(contentType: string): string {
  const values: string[] = []
  parameter.lastIndex = contentType.indexOf(';')
  while (parameter.lastIndex >= 0 && parameter.lastIndex < contentType.length) {
    const match = parameter.exec(contentType)
    if (match === null) throw new MultipartError('the parameters of its Content-Type are malformed')
    const [, name, quoted, plain] = match
    if (name?.toLowerCase() === 'boundary') values.push(quoted?.replaceAll(/\\(.)/g, '$1') ?? plain ?? '')
  }
  const [boundary] = values
  if (values.length > 1) throw new MultipartError('its Content-Type has more than one boundary')
  if (!boundary) throw new MultipartError('its Content-Type has no boundary')
  if (!/^[\x20-\x7e]*[\x21-\x7e]$/.test(boundary)) throw new MultipartError('its boundary ends with white space')
  return boundary
}

/** Reads one part: headers, an empty line, content. */
function partOf(bytes: Buffer, index: number): Part {
  const refuse = (reason: string): never => {
    throw new MultipartError(`part ${index} ${reason}`)
  }
  const end = bytes.indexOf('\r\n\r\n')
  if (end < 0) refuse('has no empty line between its headers and its content')
  const headers = new Map<string, string>()
  for (const line of bytes.toString('utf8', 0, end).split('\r\n')) {
    const [, name = '', value = ''] = /^([\w-]+):[ \t]*([^\r\n]*?)[ \t]*$/.exec(line) ?? []
    if (name === '') refuse('has a header line that is malformed')
    if (headers.has(name.toLowerCase())) refuse(`has more than one ${name}`)
    headers.set(name.toLowerCase(), value)
  }
  const disposition = headers.get('content-disposition') ?? refuse('has no Content-Disposition')
  if (!/^form-data[ \t]*(;|$)/i.test(disposition)) refuse('is not form-data')
  const encoding = headers.get('content-transfer-encoding') ?? 'binary'
  if (!/^(binary|8bit|7bit)$/i.test(encoding))
    refuse(`has the Content-Transfer-Encoding ${encoding}; send it as binary`)
  const type = headers.get('content-type') ?? ''
  if (/^multipart\//i.test(type)) refuse(`is ${type.split(';')[0]} itself; send its parts one by one`)
  const [, quoted, plain = ''] = /;[ \t]*name=(?:"((?:[^"\\]|\\.)*)"|([^;\s]+))/i.exec(disposition) ?? []
  return {
    field: quoted ?? plain,
    isFile: /;[ \t]*filename\*?=/i.test(disposition),
    bytes: bytes.subarray(end + 4),
  }
}
