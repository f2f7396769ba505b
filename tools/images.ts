import { mkdir, readdir, readFile, writeFile } from 'node:fs/promises'
import { extname, join } from 'node:path'
import sharp from 'sharp'

const types: Record<string, string> = { '.jpg': 'image/jpeg', '.png': 'image/png', '.webp': 'image/webp' }

/** An image file and its media type. */
export interface ImageFile {
  type: string
  body: Buffer
}

/** The fixtures: small photos, and a folder of full-size ones. */
export const fixtures = join(import.meta.dirname, '..', 'test', 'fixtures', 'photos')
export const fullPhotos = join(fixtures, 'full')

/** The .jpg, .png and .webp files of a folder, by name. */
export async function readImages(folder: string): Promise<ImageFile[]> {
  const names = await imagesIn(folder)
  if (names.length === 0) throw new Error(`no .jpg, .png or .webp files in ${folder}`)
  return Promise.all(
    names.map(async (name) => ({ type: types[extname(name)] as string, body: await readFile(join(folder, name)) })),
  )
}

/** One in this many fixtures is compared: enough for thousands of tokens, few enough to send one by one. */
const COMPARE_EVERY = 4

/** Crops of the model's size: `crops` of all fixtures as JPEG for load, `lossless` of some as PNG for comparison. */
export async function makeCrops(folder: string, size: number): Promise<{ crops: string; lossless: string }> {
  const folders = { crops: join(folder, 'crops'), lossless: join(folder, 'lossless') }
  await Promise.all(Object.values(folders).map((path) => mkdir(path, { recursive: true })))
  const photos = await Promise.all(
    [fixtures, fullPhotos].map(async (path) => (await imagesIn(path)).map((name) => join(path, name))),
  )
  await Promise.all(
    photos.flat().map(async (photo, i) => {
      const crop = sharp(photo).autoOrient().resize(size, size, { fit: 'cover' })
      const name = String(i).padStart(3, '0')
      await writeFile(join(folders.crops, `${name}.jpg`), await crop.clone().jpeg({ quality: 90 }).toBuffer())
      if (i % COMPARE_EVERY === 0)
        await writeFile(join(folders.lossless, `${name}.png`), await crop.clone().png().toBuffer())
    }),
  )
  return folders
}

/** The names of the .jpg, .png and .webp files of a folder, in order. */
export async function imagesIn(folder: string): Promise<string[]> {
  return (await readdir(folder)).filter((name) => extname(name) in types).sort()
}
