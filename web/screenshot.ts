/**
 * Makes the README's opening picture from the running page: `bin/node web/screenshot.ts`, after `npm run build`. It starts the service, lets the
 * first photo of the gallery grow, and writes docs/images/playground.webp, animated.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createInterface } from 'node:readline'
import type { Page } from 'playwright-core'
import sharp from 'sharp'
import { launchBrowser, noBrowser } from './browser.ts'

const root = new URL('../', import.meta.url)
// About the same number of steps per doubling.
const LENGTHS = [1, 2, 3, 4, 6, 8, 11, 16, 23, 32, 45, 64, 91, 128]
const FRAME_MS = 350
const LAST_FRAME_MS = 3000
const WIDTH = 1100

if (noBrowser) throw new Error(noBrowser)
const service = spawn(process.execPath, ['src/server.ts', '--port', '0', '--drain-delay', '0'], {
  cwd: root,
  stdio: ['ignore', 'pipe', 'inherit'],
})
try {
  const browser = await launchBrowser()
  try {
    const address = await addressOf()
    const desktop = await browser.newPage({ viewport: { width: 1280, height: 760 }, reducedMotion: 'reduce' })
    await open(desktop, address)
    const frames: Buffer[] = []
    for (const length of LENGTHS) {
      await showFirst(desktop, length)
      frames.push(
        await sharp(await desktop.screenshot())
          .resize({ width: WIDTH })
          .png()
          .toBuffer(),
      )
    }
    await sharp(frames, { join: { animated: true } })
      .webp({ quality: 78, effort: 6, loop: 0, delay: LENGTHS.map((k) => (k === 128 ? LAST_FRAME_MS : FRAME_MS)) })
      .toFile(new URL('docs/images/playground.webp', root).pathname)
  } finally {
    await browser.close()
  }
} finally {
  service.kill()
  await once(service, 'exit')
}

/** The URL that the service logs. */
async function addressOf(): Promise<string> {
  for await (const line of createInterface(service.stdout)) {
    const address = /listening on (http:\/\/[^"]+)/.exec(line)?.[1]
    if (address !== undefined) {
      // Later log lines are not needed, but must be read.
      service.stdout.resume()
      return address
    }
  }
  throw new Error('the service ended before it listened')
}

/** Waits until everything is decoded. */
async function open(page: Page, address: string): Promise<void> {
  await page.goto(address)
  await page.locator('#count', { hasText: '/' }).waitFor()
  await page.locator('#webp-note', { hasText: 'dB' }).waitFor()
  await page.locator('#progress').waitFor({ state: 'hidden' })
}

async function showFirst(page: Page, length: number): Promise<void> {
  await page.locator('#shown').fill(String(length))
  // Hide the keyboard focus ring.
  await page.locator('#shown').blur()
  await page.locator('#count', { hasText: new RegExp(`^${length} /`) }).waitFor()
}
