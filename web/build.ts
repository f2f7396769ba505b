/**
 * Builds the playground into web/dist: one script, one style sheet, the page, the gallery's photos, and the header that
 * the API documentation shares. `npm start` runs it when a source is newer; `npm run build` runs it by hand.
 */
import { copyFile, mkdir, readFile, rm, writeFile } from 'node:fs/promises'
import { basename, extname } from 'node:path'
import gallery from './gallery.json' with { type: 'json' }

const here = new URL('./', import.meta.url)
const dist = new URL('dist/', here)
const photos = new URL('../test/fixtures/photos/', here)
const THUMBNAIL_PIXELS = 112

try {
  await build()
} catch (error) {
  if ((error as { code?: string }).code !== 'ERR_MODULE_NOT_FOUND') throw error
  // An installation without development dependencies still serves the API.
  process.stderr.write('The playground is not built: esbuild is a development dependency and is not installed.\n')
}

async function build(): Promise<void> {
  const esbuild = await import('esbuild')
  const { default: sharp } = await import('sharp')
  await rm(dist, { recursive: true, force: true })
  await mkdir(new URL('photos/', dist), { recursive: true })

  const path = (name: string) => new URL(name, here).pathname
  const options = {
    // The compiler's configuration is only for type checks, and is not in the image.
    tsconfigRaw: {},
    bundle: true,
    minify: true,
    target: 'es2022',
    outdir: dist.pathname,
    loader: { '.html': 'text' },
  } as const
  const { metafile } = await esbuild.build({
    ...options,
    entryPoints: { playground: path('src/main.ts'), style: path('src/style.css') },
    format: 'esm',
    // Changed files get another name, so that browsers can cache them permanently.
    entryNames: '[name]-[hash]',
    metafile: true,
  })
  await esbuild.build({
    ...options,
    entryPoints: { docs: path('src/docs.ts'), header: path('src/header.css') },
    format: 'iife',
  })

  const built = Object.keys(metafile.outputs).map((output) => basename(output))
  const named = (start: string, end: string) =>
    built.find((name) => name.startsWith(start) && name.endsWith(end)) as string
  const page = (await readFile(new URL('src/index.html', here), 'utf8'))
    .replace('<!-- header -->', await readFile(new URL('src/header.html', here), 'utf8'))
    .replace('playground.js', named('playground-', '.js'))
    .replace('style.css', named('style-', '.css'))
  await writeFile(new URL('index.html', dist), page)
  await copyFile(new URL('src/favicon.svg', here), new URL('favicon.svg', dist))

  for (const { file } of gallery) {
    const name = basename(file)
    await copyFile(new URL(file, photos), new URL(`photos/${name}`, dist))
    await sharp(new URL(file, photos).pathname)
      .resize(THUMBNAIL_PIXELS, THUMBNAIL_PIXELS, { fit: 'cover' })
      .webp({ quality: 80 })
      .toFile(new URL(`photos/${basename(name, extname(name))}-thumbnail.webp`, dist).pathname)
  }
}
