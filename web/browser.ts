import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'

const places = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/usr/bin/google-chrome-stable',
]

/** Where a Chromium is installed, if one is; `CHROMIUM` may name it. */
export const browserPath = process.env.CHROMIUM || places.find((path) => existsSync(path))

/** Why tests that need a browser are skipped; false if there is one. */
export const noBrowser =
  browserPath === undefined && 'no Chromium is installed: apt-get install chromium, or set CHROMIUM to where it is'

/** Starts the browser. The caller must close it. */
export function launchBrowser(): Promise<Browser> {
  return chromium.launch({
    executablePath: browserPath as string,
    args: ['--no-sandbox', '--headless', '--disable-gpu', '--disable-background-networking', '--no-first-run'],
  })
}
