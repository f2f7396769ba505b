import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import files from '@fastify/static'
import type { FastifySwaggerUiOptions } from '@fastify/swagger-ui'
import type { FastifyInstance, RouteHandlerMethod } from 'fastify'

const notBuilt = `<!doctype html>
<html lang="en">
<title>NativeTok</title>
<p>The playground is not built: run <code>npm ci</code> with development dependencies, or <code>npm run build</code> where
they are installed, and start the service again.
The API is documented at <a href="docs">docs</a>.</p>
</html>
`

/** The playground, built by `npm run build` from `web/`. Its files do not slow down API requests. */
export class Playground {
  readonly #folder: URL
  readonly #built: boolean

  /** @param folder of the built files, if they exist; ends in a slash */
  constructor(folder = new URL('../../web/dist/', import.meta.url)) {
    this.#folder = folder
    this.#built = existsSync(new URL('index.html', folder))
  }

  /** Serves the files below /playground/. */
  async serve(http: FastifyInstance): Promise<void> {
    if (!this.#built) return
    await http.register(files, {
      root: fileURLToPath(this.#folder),
      prefix: '/playground/',
      index: false,
      // A folder is not a file: answer "not found", not "forbidden".
      allowedPath: (path) => !path.endsWith('/'),
      cacheControl: false,
      setHeaders: (reply, path) => {
        // The names of scripts and style sheets change with their content; browsers revalidate everything else.
        const named = /-[A-Z0-9]{8}\.\w+$/.test(path)
        reply.header('cache-control', named ? 'public, max-age=31536000, immutable' : 'no-cache')
      },
    })
  }

  /** `GET /`: the page, or how to build it. */
  readonly home: RouteHandlerMethod = async (_, reply) => {
    if (this.#built) return reply.sendFile('index.html')
    return reply.type('text/html; charset=utf-8').header('cache-control', 'no-cache').send(notBuilt)
  }

  /** Adds the playground's header to the API documentation. */
  docsTheme(): NonNullable<FastifySwaggerUiOptions['theme']> {
    const title = 'NativeTok API'
    if (!this.#built) return { title }
    const content = (name: string) => readFileSync(new URL(name, this.#folder), 'utf8')
    return {
      title,
      css: [{ filename: 'header.css', content: content('header.css') }],
      js: [{ filename: 'docs.js', content: content('docs.js') }],
      favicon: [
        { filename: 'favicon.svg', rel: 'icon', type: 'image/svg+xml', sizes: 'any', content: content('favicon.svg') },
      ],
    }
  }
}
