import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, afterEach, before, describe, test } from 'node:test'
import { promisify } from 'node:util'
import type { Browser, BrowserContextOptions, Locator, Page, Request, Route } from 'playwright-core'
import sharp from 'sharp'
import type { Config } from '../../src/config.ts'
import { integers, parseNpy } from '../../src/formats/npy.ts'
import { launchBrowser, noBrowser } from '../../web/browser.ts'
import type { Info } from '../../web/src/api.ts'
import { difference, grey, type Picture, psnr } from '../../web/src/pixels.ts'
import { tinyBundle } from '../helpers/bundle.ts'
import { type Backend, fixture, formOf, listen, type Service, startBackend } from '../helpers/service.ts'

const root = new URL('../../', import.meta.url)
const axe = createRequire(import.meta.url).resolve('axe-core/axe.min.js')
const phone = { viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true }
const LENGTH = 128

describe('the playground', { skip: noBrowser }, () => {
  let backend: Backend
  let service: Service
  let browser: Browser
  /** Unexpected faults on the pages of a test. */
  let faults: string[] = []
  let expected: RegExp[] = []
  let opened: Page[] = []

  before(async () => {
    await promisify(execFile)(process.execPath, ['web/build.ts'], { cwd: root })
    backend = await startBackend()
    service = await listen(backend)
    browser = await launchBrowser()
  })
  after(async () => {
    await browser.close()
    await service.http.close()
    await backend.inference.close()
  })
  afterEach(async () => {
    for (const page of opened) await page.context().close()
    const unexpected = faults.filter((fault) => !expected.some((pattern) => pattern.test(fault)))
    faults = []
    expected = []
    opened = []
    assert.deepEqual(unexpected, [])
  })

  /** A new page, watched for faults. Animations are off unless a test turns them on. */
  async function newPage(options: BrowserContextOptions = {}): Promise<Page> {
    const context = await browser.newContext({
      viewport: { width: 1280, height: 800 },
      reducedMotion: 'reduce',
      ...options,
    })
    const page = await context.newPage()
    opened.push(page)
    page.on('console', (message) => {
      if (['error', 'warning'].includes(message.type())) faults.push(message.text())
    })
    page.on('pageerror', (error) => faults.push(error.message))
    page.on('request', (request) => {
      const { protocol, host } = new URL(request.url())
      if (protocol !== 'blob:' && protocol !== 'data:' && host !== new URL(service.base).host) {
        if (!host.startsWith('127.0.0.1')) faults.push(`request to ${host}`)
      }
    })
    await page.addInitScript({ path: axe })
    await page.addInitScript(() => {
      addEventListener('securitypolicyviolation', ({ violatedDirective, blockedURI }) =>
        console.error(`CSP: ${violatedDirective} ${blockedURI}`),
      )
    })
    return page
  }

  /** A page with the first photo of the gallery on it, decoded in full. */
  async function openPage(options: BrowserContextOptions = {}, path = '/'): Promise<Page> {
    const page = await newPage(options)
    await page.goto(`${service.base}${path}`)
    await decoded(page)
    return page
  }

  /** Waits until the shown frame is decoded; other frames may still follow. */
  async function decoded(page: Page): Promise<void> {
    await page.waitForFunction(() => {
      const note = document.querySelector('#picture-note')?.textContent
      return document.querySelector('#count')?.textContent !== '' && note !== 'decoding…'
    })
  }

  async function pixels(page: Page, id: string): Promise<Picture> {
    const { width, height, data } = await page.evaluate((id) => {
      const canvas = document.getElementById(id) as HTMLCanvasElement
      const copy = new OffscreenCanvas(canvas.width, canvas.height).getContext(
        '2d',
      ) as OffscreenCanvasRenderingContext2D
      copy.drawImage(canvas, 0, 0)
      const image = copy.getImageData(0, 0, canvas.width, canvas.height)
      return { width: image.width, height: image.height, data: [...image.data] }
    }, id)
    return { width, height, data: new Uint8ClampedArray(data) }
  }

  /** The picture that the service itself decodes from tokens. */
  async function decode(tokens: number[], base = service.base): Promise<Picture> {
    const headers = { 'content-type': 'application/json' }
    const answer = await fetch(`${base}/decode`, { method: 'POST', headers, body: JSON.stringify({ tokens }) })
    const { data, info } = await sharp(await answer.arrayBuffer())
      .ensureAlpha()
      .raw()
      .toBuffer({ resolveWithObject: true })
    return { width: info.width, height: info.height, data: new Uint8ClampedArray(data) }
  }

  async function encode(file: Buffer<ArrayBuffer>): Promise<number[]> {
    const answer = await fetch(`${service.base}/encode`, { method: 'POST', body: formOf([file]) })
    const { tokens } = (await answer.json()) as { tokens: number[][] }
    return tokens[0] as number[]
  }

  /** The tokens that the page offers to copy. */
  async function offered(page: Page): Promise<number[]> {
    await page.getByRole('radio', { name: 'JSON' }).check()
    return JSON.parse(await page.locator('#snippet').inputValue()).tokens[0]
  }

  async function shows(page: Page, id: string, tokens: number[], base = service.base): Promise<void> {
    const [found, wanted] = [await pixels(page, id), await decode(tokens, base)]
    assert.equal(psnr(found, wanted), Number.POSITIVE_INFINITY, `#${id} shows something else`)
  }

  /** Waits until an element's text matches. */
  const says = (locator: Locator, text: RegExp) => locator.filter({ hasText: text }).waitFor()
  const slide = (page: Page, id: string, value: number) => page.locator(id).fill(String(value))
  const cell = (page: Page, position: number) => page.locator('#strip button').nth(position)

  /** Accessibility faults in the current state of the page. */
  async function violations(page: Page): Promise<string[]> {
    const found = await page.evaluate(async () => {
      const { axe } = window as unknown as { axe: { run: () => Promise<{ violations: Violation[] }> } }
      type Violation = { id: string; nodes: { html: string; failureSummary: string }[] }
      return (await axe.run()).violations
    })
    return found.flatMap(({ id, nodes }) => nodes.map(({ html, failureSummary }) => `${id}: ${html} ${failureSummary}`))
  }

  test('on first load a photo of the gallery is encoded and grows to the picture of all its tokens', async () => {
    const page = await newPage({ reducedMotion: 'no-preference' })
    await page.addInitScript(() => {
      const seen: number[] = []
      Object.assign(window, { seen })
      addEventListener('DOMContentLoaded', () => {
        const count = document.querySelector('#count') as HTMLElement
        new MutationObserver(() => seen.push(Number.parseInt(count.textContent ?? '', 10))).observe(count, {
          childList: true,
        })
      })
    })
    await page.goto(service.base)
    await says(page.locator('#count'), new RegExp(`^${LENGTH} / ${LENGTH}$`))
    await decoded(page)
    const seen = await page.evaluate(() => (window as unknown as { seen: number[] }).seen)
    const steps = seen.filter((k, i) => k !== seen[i - 1])
    assert.equal(steps[0], 1)
    assert.ok(steps.length > 12, `${steps}`)
    assert.deepEqual(
      steps,
      steps.toSorted((a, b) => a - b),
    )
    assert.equal(await page.getByRole('button', { name: 'Play' }).count(), 1)
    await shows(page, 'picture', await offered(page))
  })

  test('original, reconstruction and WebP are side by side with their PSNR and bytes', async () => {
    const page = await openPage()
    const photo = fixture('photos/joshua-tree.webp')
    assert.deepEqual(await offered(page), await encode(photo))
    await says(page.locator('#original-title'), /^Original, 2\.2 kB$/)
    await says(page.locator('#original-note'), /^Joshua tree: Caltech 101, CC BY 4\.0$/)
    await says(page.locator('#picture-title'), /^128 tokens, 192 bytes$/)
    const original = await pixels(page, 'original')
    const measured = psnr(original, await pixels(page, 'picture'))
    await says(page.locator('#picture-note'), new RegExp(`^${measured.toFixed(1)} dB$`))
    // Browser and service see the same original: this photo already has the model's size.
    const { data } = await sharp(photo).ensureAlpha().raw().toBuffer({ resolveWithObject: true })
    assert.ok(psnr(original, { ...original, data: new Uint8ClampedArray(data) }) > 40)

    await says(page.locator('#webp-title'), /^WebP, \d+ bytes$/)
    const bytes = Number(/\d+/.exec((await page.locator('#webp-title').textContent()) ?? ''))
    assert.ok(bytes > 100 && bytes <= 192, `${bytes}`)
    const webp = psnr(original, await pixels(page, 'webp'))
    await says(page.locator('#webp-note'), new RegExp(`^${webp.toFixed(1)} dB`))
    await slide(page, '#shown', 2)
    await says(page.locator('#webp-note'), /There is none so small/)
  })

  test('the slider shows any prefix, with a description', async () => {
    const page = await openPage()
    const tokens = await offered(page)
    const slider = page.getByRole('slider', { name: 'Tokens shown' })
    for (const k of [1, 17, 32, 128]) {
      await slide(page, '#shown', k)
      await decoded(page)
      await shows(page, 'picture', tokens.slice(0, k))
      assert.match((await slider.getAttribute('aria-valuetext')) ?? '', new RegExp(`^${k}.* dB$`))
      assert.equal(await page.locator('#strip button:not(.off)').count(), k)
      assert.equal((await offered(page)).length, k)
    }
  })

  test('a moving slider requests batches of prefixes and cancels outdated ones', async () => {
    const page = await newPage()
    const batches: number[][] = []
    const cancelled: Request[] = []
    page.on('requestfailed', (request) => cancelled.push(request))
    let slow = false
    await page.route('**/decode?*', async (route) => {
      const { tokens } = route.request().postDataJSON() as { tokens: number[][] }
      batches.push(tokens.map(({ length }) => length))
      if (slow) await new Promise((resolve) => setTimeout(resolve, 400))
      await route.continue().catch(() => {})
    })
    // Before the background filling has got far.
    slow = true
    await page.goto(service.base)
    await says(page.locator('#count'), /128 \/ 128/)
    const before = batches.length
    for (const k of [90, 70, 50, 30]) {
      await slide(page, '#shown', k)
      await page.waitForTimeout(50)
    }
    slow = false
    await decoded(page)
    assert.ok(cancelled.length >= 2, `${cancelled.length} were cancelled`)
    assert.ok(cancelled.every((request) => request.failure()?.errorText === 'net::ERR_ABORTED'))
    const wanted = batches.slice(before).filter((batch) => batch.includes(30))
    assert.ok(wanted.some((batch) => batch.length > 1 && batch.every((k) => Math.abs(k - 30) <= 16)))
    assert.ok(batches.every((batch) => batch.length <= 16))
    await shows(page, 'picture', (await offered(page)).slice(0, 30))
  })

  test('play grows the picture, pause stops it', async () => {
    const page = await openPage()
    await page.getByRole('button', { name: 'Play' }).click()
    await says(page.locator('#count'), /^(4|8|16) \/ 128$/)
    await page.getByRole('button', { name: 'Pause' }).click()
    const held = await page.locator('#count').textContent()
    await page.waitForTimeout(300)
    assert.equal(await page.locator('#count').textContent(), held)
    await page.getByRole('button', { name: 'Play' }).click()
    await says(page.locator('#count'), /^128 \/ 128$/)
    await page.getByRole('button', { name: 'Play' }).waitFor()
  })

  test('pointing at a token shows what it changes; otherwise the page shows what is missing', async () => {
    const page = await openPage()
    const tokens = await offered(page)
    for (const position of [0, 20, 127]) {
      await cell(page, position).hover()
      await says(page.locator('#change-title'), new RegExp(`^What token ${position + 1} changes$`))
      await page.waitForFunction(() => document.querySelector('#change-note')?.textContent !== 'decoding…')
      const after = await decode(tokens.slice(0, position + 1))
      const before = position === 0 ? grey(128, 128) : await decode(tokens.slice(0, position))
      const { data, largest } = difference(before, after)
      assert.deepEqual((await pixels(page, 'change')).data, data)
      await says(
        page.locator('#change-note'),
        new RegExp(`^id ${tokens[position]}: up to ${Math.round(largest)} levels`),
      )
    }
    await page.locator('h1').hover()
    await says(page.locator('#change-title'), /still missing/)
    const missing = difference(await pixels(page, 'original'), await decode(tokens), 128)
    assert.deepEqual((await pixels(page, 'change')).data, missing.data)
  })

  test('a token is edited, swapped and reset, and decoded each time', async () => {
    const page = await openPage()
    const tokens = await offered(page)
    await cell(page, 4).click()
    await says(page.locator('#editor-name'), /^Token 5$/)
    await page.getByLabel('Id', { exact: true }).fill('77')
    await page.getByLabel('Id', { exact: true }).press('Enter')
    await decoded(page)
    const edited = tokens.with(4, 77)
    assert.deepEqual(await offered(page), edited)
    await shows(page, 'picture', edited)
    assert.equal(await page.locator('#strip .edited').count(), 1)
    // Prefixes up to the edit are unchanged, those after it are not.
    for (const k of [4, 5]) {
      await slide(page, '#shown', k)
      await decoded(page)
      await shows(page, 'picture', edited.slice(0, k))
    }
    await slide(page, '#shown', 128)

    await page.getByLabel('Swap with token').fill('100')
    await page.getByRole('button', { name: 'Swap' }).click()
    await decoded(page)
    const swapped = edited.with(4, edited[99] as number).with(99, 77)
    assert.deepEqual(await offered(page), swapped)
    await shows(page, 'picture', swapped)

    await page.getByRole('button', { name: 'Another id' }).click()
    await decoded(page)
    const random = await offered(page)
    assert.notEqual(random[4], swapped[4])
    assert.deepEqual(random.with(4, swapped[4] as number), swapped)

    await page.getByRole('button', { name: 'Undo all edits' }).click()
    await decoded(page)
    assert.deepEqual(await offered(page), tokens)
    await shows(page, 'picture', tokens)
    assert.equal(await page.getByRole('button', { name: 'Undo all edits' }).count(), 0)

    // Invalid ids are ignored.
    await page.getByLabel('Id', { exact: true }).fill('5000')
    await page.getByLabel('Id', { exact: true }).press('Enter')
    assert.deepEqual(await offered(page), tokens)
  })

  test('typed text stays while frames arrive', async () => {
    const page = await openPage()
    await cell(page, 4).click()
    await page.getByLabel('Id', { exact: true }).click()
    await page.keyboard.press('Control+A')
    await page.keyboard.type('12')
    // Like an arriving frame, this redraws everything.
    await page.locator('#shown').evaluate((slider) => slider.dispatchEvent(new Event('input')))
    assert.equal(await page.getByLabel('Id', { exact: true }).inputValue(), '12')
    await page.keyboard.type('3')
    await page.keyboard.press('Enter')
    assert.equal((await offered(page))[4], 123)
  })

  test('an edit beyond the shown prefix extends it', async () => {
    const page = await openPage()
    await slide(page, '#shown', 10)
    await cell(page, 40).click()
    await page.getByRole('button', { name: 'Another id' }).click()
    await says(page.locator('#count'), /^41 \/ 128$/)
  })

  test('a file can be chosen, dropped or pasted', async () => {
    const page = await openPage()
    const files = {
      'coffee.jpg': 'photos/full/coffee.jpg',
      'cat.png': 'formats/cat.png',
      'daisy.webp': 'photos/daisy-1.webp',
    }
    const [coffee, cat, daisy] = Object.values(files).map((path) => fixture(path)) as [
      Buffer<ArrayBuffer>,
      Buffer<ArrayBuffer>,
      Buffer<ArrayBuffer>,
    ]
    const opens = async (name: string, file: Buffer<ArrayBuffer>) => {
      await says(page.locator('#original-note'), new RegExp(`^${name}$`))
      await decoded(page)
      const tokens = await encode(file)
      assert.deepEqual(await offered(page), tokens)
      await shows(page, 'picture', tokens)
    }
    await page
      .getByLabel('Your own photo')
      .first()
      .setInputFiles({ name: 'coffee.jpg', mimeType: 'image/jpeg', buffer: coffee })
    await opens('coffee.jpg', coffee)
    assert.equal(await page.locator('#gallery [aria-pressed="true"]').count(), 0)

    const transfer = (name: string, type: string, file: Buffer) =>
      page.evaluateHandle(
        ([name, type, base64]) => {
          const bytes = Uint8Array.from(atob(base64 as string), (c) => c.charCodeAt(0))
          const data = new DataTransfer()
          data.items.add(new File([bytes], name as string, { type: type as string }))
          return data
        },
        [name, type, file.toString('base64')],
      )
    const dataTransfer = await transfer('cat.png', 'image/png', cat)
    await page.dispatchEvent('main', 'dragenter', { dataTransfer })
    assert.ok(await page.locator('#drop-veil').isVisible())
    await page.dispatchEvent('main', 'drop', { dataTransfer })
    assert.ok(await page.locator('#drop-veil').isHidden())
    await opens('cat.png', cat)

    await page.evaluate(
      (data) =>
        document.body.dispatchEvent(
          new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }),
        ),
      await transfer('daisy.webp', 'image/webp', daisy),
    )
    await opens('daisy.webp', daisy)
  })

  test('a phone offers its camera', async () => {
    const page = await openPage(phone)
    const camera = page.getByLabel('Take a photo')
    assert.ok(await page.locator('.photograph').isVisible())
    assert.equal(await camera.getAttribute('capture'), 'environment')
    const cat = fixture('photos/full/cat.jpg')
    await camera.setInputFiles({ name: 'IMG_0001.jpg', mimeType: 'image/jpeg', buffer: cat })
    await says(page.locator('#original-note'), /^IMG_0001\.jpg$/)
    await decoded(page)
    assert.deepEqual(await offered(page), await encode(cat))
    await cell(page, 9).tap()
    await says(page.locator('#change-title'), /^What token 10 changes$/)
    assert.equal(await page.evaluate(() => document.activeElement?.id), '', 'no keyboard covers the picture')
  })

  test('a photo is rotated according to its EXIF', async () => {
    const page = await openPage()
    const file = fixture('formats/orientation-6.jpg')
    await page
      .getByLabel('Your own photo')
      .first()
      .setInputFiles({ name: 'turned.jpg', mimeType: 'image/jpeg', buffer: file })
    await says(page.locator('#original-note'), /^turned\.jpg$/)
    await decoded(page)
    const measured = psnr(await pixels(page, 'original'), await pixels(page, 'picture'))
    assert.ok(measured > 15, `${measured} dB`)
  })

  test('two pictures are mixed, and the mix can be used', async () => {
    const page = await openPage()
    const first = await offered(page)
    await page.locator('#mixed').scrollIntoViewIfNeeded()
    await says(page.locator('#tail-title'), /^Fig$/)
    await page.locator('#second-gallery').getByRole('button', { name: 'Water lily' }).click()
    await says(page.locator('#tail-title'), /^Water lily$/)
    const second = await encode(fixture('photos/water-lily.webp'))
    for (const cut of [0, 40, 128]) {
      await slide(page, '#cut', cut)
      await says(page.locator('#mixed-note'), new RegExp(`^cut at ${cut}$`))
      await shows(page, 'mixed', [...first.slice(0, cut), ...second.slice(cut)])
    }
    await shows(page, 'head', first)
    await shows(page, 'tail', second)

    await slide(page, '#cut', 40)
    await page.getByRole('button', { name: 'Open the mix at the top' }).click()
    await decoded(page)
    const mixed = [...first.slice(0, 40), ...second.slice(40)]
    assert.deepEqual(await offered(page), mixed)
    await shows(page, 'picture', mixed)
    await says(page.locator('#original-title'), /^No original$/)

    const dandelion = fixture('photos/dandelion-1.webp')
    await page.locator('#choose-second').setInputFiles({ name: 'own.webp', mimeType: 'image/webp', buffer: dandelion })
    await says(page.locator('#tail-title'), /^own\.webp$/)
    await slide(page, '#cut', 0)
    await says(page.locator('#mixed-note'), /^cut at 0$/)
    await shows(page, 'mixed', await encode(dandelion))
  })

  test('tokens are copied as JSON, NumPy and a curl line that works, and downloaded', async () => {
    const page = await openPage()
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
    await slide(page, '#shown', 32)
    await decoded(page)
    const tokens = await offered(page)
    assert.equal(tokens.length, 32)
    const copied = async (kind: string) => {
      await page.getByRole('radio', { name: kind }).check()
      await page.getByRole('button', { name: 'Copy', exact: true }).click()
      await says(page.locator('#status'), /^Copied 32 tokens\.$/)
      return page.evaluate(() => navigator.clipboard.readText())
    }
    const { model, length, tokens: rows } = JSON.parse(await copied('JSON'))
    const info = (await (await fetch(`${service.base}/info`)).json()) as Info
    assert.deepEqual([model, length, rows], [info.model, 32, [tokens]])
    assert.ok((await copied('NumPy')).includes(`np.array([${tokens.join(', ')}], dtype=np.uint16)`))

    const folder = await mkdtemp(join(tmpdir(), 'playground-'))
    try {
      await promisify(execFile)('sh', ['-c', await copied('curl')], { cwd: folder })
      const raw = await sharp(await readFile(join(folder, 'picture.png')))
        .ensureAlpha()
        .raw()
        .toBuffer()
      assert.deepEqual(new Uint8ClampedArray(raw), (await decode(tokens)).data)

      const [download] = await Promise.all([
        page.waitForEvent('download'),
        page.getByRole('button', { name: 'Download .npy' }).click(),
      ])
      assert.equal(download.suggestedFilename(), 'tokens.npy')
      await download.saveAs(join(folder, 'tokens.npy'))
      assert.deepEqual(integers(parseNpy(await readFile(join(folder, 'tokens.npy')))), tokens)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  test('copying works on a page without clipboard access', async () => {
    const page = await newPage()
    await page.addInitScript(() => Object.defineProperty(navigator, 'clipboard', { value: undefined }))
    await page.goto(service.base)
    await decoded(page)
    await page.getByRole('button', { name: 'Copy', exact: true }).click()
    await says(page.locator('#status'), /^Copied 128 tokens\.$/)
  })

  test('a link shows the same tokens elsewhere, edits included, without encoding', async () => {
    const page = await openPage()
    await page.context().grantPermissions(['clipboard-read', 'clipboard-write'])
    await cell(page, 2).click()
    await page.getByLabel('Id', { exact: true }).fill('1234')
    await page.getByLabel('Id', { exact: true }).press('Enter')
    await decoded(page)
    const tokens = await offered(page)
    await slide(page, '#shown', 50)
    await page.getByRole('button', { name: 'Copy link' }).click()
    await says(page.locator('#status'), /^Copied the link\.$/)
    const link = await page.evaluate(() => navigator.clipboard.readText())
    assert.ok(link.startsWith(`${service.base}/#`) && link.length < 400, link)

    const other = await newPage()
    const encodings: string[] = []
    other.on('request', (request) => request.url().endsWith('/encode') && encodings.push(request.url()))
    await other.goto(link)
    await decoded(other)
    await says(other.locator('#count'), /^50 \/ 128$/)
    await says(other.locator('#original-note'), /^Joshua tree/)
    assert.deepEqual(await offered(other), tokens.slice(0, 50))
    await shows(other, 'picture', tokens.slice(0, 50))
    await slide(other, '#shown', 128)
    assert.deepEqual(await offered(other), tokens)
    assert.deepEqual(encodings, [])

    // Pasted into a page that is already open, and from another model.
    await other.evaluate(
      (hash) => {
        location.hash = hash
      },
      new URL(link).hash.replace(/m=\w+/, 'm=000000000000'),
    )
    await says(other.locator('#alert-text'), /another model/)

    // Opened anew: the first gallery photo grows instead, and the reason stays.
    const fresh = await newPage()
    await fresh.goto(link.replace(/m=\w+/, 'm=000000000000'))
    await decoded(fresh)
    await says(fresh.locator('#alert-text'), /another model/)
  })

  test("the service's error for a bad file is shown until the next file", async () => {
    const page = await openPage()
    expected = [/status of 4\d\d/]
    const input = page.getByLabel('Your own photo').first()
    const tokens = await offered(page)
    await input.setInputFiles({ name: 'cut.jpg', mimeType: 'image/jpeg', buffer: fixture('formats/truncated.jpg') })
    await says(page.getByRole('alert'), /^\s*Undecodable image: image 0 cannot be decoded/)
    assert.deepEqual(await offered(page), tokens)
    await input.setInputFiles({ name: 'a.svg', mimeType: 'image/svg+xml', buffer: fixture('formats/drawing.svg') })
    await says(page.getByRole('alert'), /^\s*Unsupported type: image 0/)
    await page.getByRole('button', { name: 'Dismiss this message' }).click()
    assert.ok(await page.locator('#alert').isHidden())
    await input.setInputFiles({ name: 'cut.jpg', mimeType: 'image/jpeg', buffer: fixture('formats/truncated.jpg') })
    await says(page.getByRole('alert'), /Undecodable/)
    await page.getByRole('button', { name: 'Coffee' }).first().click()
    await says(page.locator('#original-note'), /^Coffee/)
    assert.ok(await page.locator('#alert').isHidden())
  })

  test('a file that only the service can read is encoded without a comparison', async () => {
    const page = await openPage()
    const tiff = fixture('formats/cat.tiff')
    await page
      .getByLabel('Your own photo')
      .first()
      .setInputFiles({ name: 'cat.tiff', mimeType: 'image/tiff', buffer: tiff })
    await says(page.locator('#status'), /cannot show the file itself/)
    await decoded(page)
    assert.deepEqual(await offered(page), await encode(tiff))
    await says(page.locator('#original-title'), /^No original$/)
    await says(page.locator('#webp-note'), /^Needs the original$/)
  })

  test('a browser that cannot write WebP says so', async () => {
    const page = await newPage()
    await page.addInitScript(() => {
      const toBlob = HTMLCanvasElement.prototype.toBlob
      HTMLCanvasElement.prototype.toBlob = function (callback) {
        toBlob.call(this, callback, 'image/png')
      }
    })
    await page.goto(service.base)
    await decoded(page)
    await says(page.locator('#webp-note'), /^This browser cannot write WebP$/)
  })

  test('slow work shows its progress', async () => {
    const page = await newPage()
    await page.route('**/encode', async (route) => {
      await new Promise((resolve) => setTimeout(resolve, 2600))
      await route.continue()
    })
    await page.goto(service.base)
    await says(page.getByRole('status'), /^Encoding…$/)
    assert.ok(await page.locator('#progress').isVisible())
    await page.locator('#status[data-elapsed="2 s"]').waitFor()
    await decoded(page)
    await says(page.getByRole('status'), /^Joshua tree: 128 tokens\.$/)
    await page.locator('#progress').waitFor({ state: 'hidden' })
  })

  test('a request to a full queue is retried after Retry-After, and an unreachable service is reported', async () => {
    const page = await newPage()
    expected = [/status of 503/, /ERR_CONNECTION_REFUSED|ERR_FAILED/]
    let refused = 0
    await page.route('**/encode', async (route: Route) => {
      if (refused++ > 0) return route.continue()
      const body = JSON.stringify({ title: 'Queue full', detail: 'the queue is full' })
      const headers = { 'content-type': 'application/problem+json', 'retry-after': '1' }
      return route.fulfill({ status: 503, headers, body })
    })
    await page.goto(service.base)
    await decoded(page)
    assert.equal(refused, 2)
    assert.ok(await page.locator('#alert').isHidden())

    await page.route('**/encode', (route) => route.abort('connectionrefused'))
    await page.getByRole('button', { name: 'Cat' }).first().click()
    await says(page.getByRole('alert'), /The service does not answer/)
  })

  test('a long wait is shown as an error', async () => {
    const page = await newPage()
    expected = [/status of 429/]
    await page.route('**/encode', (route) => {
      const body = JSON.stringify({ title: 'Too many requests', detail: 'try again in 40 seconds' })
      const headers = { 'content-type': 'application/problem+json', 'retry-after': '40' }
      return route.fulfill({ status: 429, headers, body })
    })
    await page.goto(service.base)
    await says(page.getByRole('alert'), /Too many requests: try again in 40 seconds/)
  })

  test('the page asks for an API key, keeps it only in memory and never copies it', async () => {
    const apiKey = 'correct-horse'
    const guarded = await listen(backend, { apiKey } as Partial<Config>)
    try {
      expected = [/status of 401/]
      const page = await newPage()
      await page.goto(guarded.base)
      const dialog = page.getByRole('dialog', { name: 'API key' })
      await dialog.waitFor()
      assert.equal(await page.evaluate(() => document.activeElement?.id), 'key-input')
      assert.deepEqual(await violations(page), [])
      await page.getByLabel('Key', { exact: true }).fill('wrong')
      await page.keyboard.press('Enter')
      await says(page.locator('#key-refused'), /not accepted/)
      await page.getByLabel('Key', { exact: true }).fill('schlüssel ✓')
      await page.keyboard.press('Enter')
      await says(page.locator('#key-refused'), /not accepted/)
      assert.ok(await dialog.isVisible())
      await page.getByLabel('Key', { exact: true }).fill(apiKey)
      await page.getByRole('button', { name: 'Use it' }).click()
      await decoded(page)
      await shows(page, 'picture', await offered(page))
      await page.getByRole('radio', { name: 'curl' }).check()
      const line = await page.locator('#snippet').inputValue()
      assert.ok(line.includes('$NATIVETOK_API_KEY') && !line.includes(apiKey))
      await page.getByRole('button', { name: 'Copy link' }).click()
      const kept = await page.evaluate(() =>
        JSON.stringify([
          { ...localStorage },
          { ...sessionStorage },
          document.cookie,
          location.href,
          document.body.outerHTML,
        ]),
      )
      assert.ok(!kept.includes(apiKey))
      await page.reload()
      await dialog.waitFor()
      await page.keyboard.press('Escape')
      await says(page.getByRole('alert'), /needs an API key. Reload the page/)
    } finally {
      await guarded.http.close()
    }
  })

  /** Runs a test with a service of another bundle. */
  async function onBundle(name: 'parallel' | 'state' | 'whole', act: (other: Service, info: Info) => Promise<void>) {
    const another = await startBackend({ model: tinyBundle(name) })
    const other = await listen(another)
    try {
      await act(other, (await (await fetch(`${other.base}/info`)).json()) as Info)
    } finally {
      for (const page of opened) await page.goto('about:blank')
      await other.http.close()
      await another.inference.close()
    }
  }

  for (const [name, hint] of [
    ['parallel', /side by side, in no order/],
    ['whole', /takes whole sequences only/],
  ] as const) {
    test(`the bundle ${name}, whose prefixes do not decode, has no slider but a hint`, () =>
      onBundle(name, async ({ base }, info) => {
        const page = await newPage()
        const lengths = new Set<number>()
        page.on('request', (request) => {
          if (!request.url().includes('/decode')) return
          for (const { length } of (request.postDataJSON() as { tokens: number[][] }).tokens) lengths.add(length)
        })
        await page.goto(base)
        await decoded(page)
        await says(page.locator('#no-prefix'), hint)
        assert.equal(await page.getByRole('slider', { name: 'Tokens shown' }).count(), 0)
        assert.equal(await page.getByRole('button', { name: 'Play' }).count(), 0)
        const tokens = await offered(page)
        await shows(page, 'picture', tokens, base)
        await cell(page, 1).hover()
        await says(page.locator('#change-note'), /from another id$/)
        const { size } = info.codebook
        const other = await decode(tokens.with(1, ((tokens[1] as number) + size / 2) % size), base)
        assert.deepEqual((await pixels(page, 'change')).data, difference(other, await decode(tokens, base)).data)
        await cell(page, 1).click()
        await page.getByRole('button', { name: 'Another id' }).click()
        await decoded(page)
        await shows(page, 'picture', await offered(page), base)
        assert.deepEqual([...lengths], [info.length])
        assert.deepEqual(await violations(page), [])
      }))
  }

  test('a bundle of other sizes whose prefixes decode has a slider over its length', () =>
    onBundle('state', async ({ base }, info) => {
      assert.ok(info.length !== LENGTH && info.imageSize !== 128)
      const page = await newPage()
      await page.goto(base)
      await decoded(page)
      await says(page.locator('#count'), new RegExp(`^${info.length} / ${info.length}$`))
      const tokens = await offered(page)
      assert.equal(tokens.length, info.length)
      await slide(page, '#shown', 2)
      await decoded(page)
      await shows(page, 'picture', tokens.slice(0, 2), base)
      await page.locator('#mixed').scrollIntoViewIfNeeded()
      await says(page.locator('#tail-title'), /^Fig$/)
      await slide(page, '#cut', 1)
      await says(page.locator('#mixed-note'), /^cut at 1$/)
    }))

  test('everything works with only the keyboard', async () => {
    const page = await openPage()
    const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.textContent || '')
    const tabTo = async (id: string) => {
      for (let i = 0; i < 60; i++) {
        await page.keyboard.press('Tab')
        if ((await focused()) === id) return
      }
      assert.fail(`Tab never comes to ${id}`)
    }
    await page.keyboard.press('Tab')
    assert.equal(await focused(), 'Skip to the picture')
    await page.keyboard.press('Enter')
    await tabTo('shown')
    await page.keyboard.press('Home')
    await says(page.locator('#count'), /^1 \/ 128$/)
    await page.keyboard.press('ArrowRight')
    await says(page.locator('#count'), /^2 \/ 128$/)
    await page.keyboard.press('End')
    await says(page.locator('#count'), /^128 \/ 128$/)

    // The tokens are one tab stop; arrow keys move between them.
    await page.keyboard.press('Tab')
    for (const key of ['ArrowRight', 'ArrowRight', 'ArrowDown', 'ArrowLeft']) await page.keyboard.press(key)
    await says(page.locator('#change-title'), /^What token 34 changes$/)
    await page.keyboard.press('Enter')
    assert.equal(await focused(), 'token-id')
    await page.keyboard.type('99')
    await page.keyboard.press('Enter')
    await decoded(page)
    assert.equal((await offered(page))[33], 99)

    await page.locator('#choose').focus()
    assert.notEqual(
      await page
        .locator('.button.file')
        .first()
        .evaluate((e) => getComputedStyle(e).outlineStyle),
      'none',
    )
    await tabTo('cut')
    await says(page.locator('#tail-title'), /^Fig$/)
    await page.keyboard.press('Home')
    await says(page.locator('#mixed-note'), /^cut at 0$/)
    await tabTo('copy')
    await page.keyboard.press('Enter')
    await says(page.locator('#status'), /Copied|Copy it by hand/)
  })

  for (const colorScheme of ['light', 'dark'] as const) {
    for (const [size, options] of [
      ['desktop', {}],
      ['phone', phone],
    ] as const) {
      test(`axe finds nothing, ${colorScheme}, ${size}`, async () => {
        const page = await openPage({ ...options, colorScheme })
        assert.deepEqual(await violations(page), [])
        // With everything open that can be opened.
        expected = [/status of 422/]
        await cell(page, 3).click()
        await page.getByRole('button', { name: 'Another id' }).click()
        await page.locator('#mixed').scrollIntoViewIfNeeded()
        await says(page.locator('#tail-note'), /^last/)
        await page
          .locator('#choose')
          .setInputFiles({ name: 'cut.jpg', mimeType: 'image/jpeg', buffer: fixture('formats/truncated.jpg') })
        await page.getByRole('alert').waitFor()
        await decoded(page)
        assert.deepEqual(await violations(page), [])
      })
    }
  }

  test('the main content fits on one screen, without horizontal overflow', async () => {
    for (const [options, whole] of [
      [{}, '#editor-hint'],
      [phone, '#shown'],
      [{ viewport: { width: 320, height: 640 } }, 'h1'],
      [{ viewport: { width: 844, height: 390 } }, 'h1'],
    ] as const) {
      const page = await openPage(options)
      const { width, height } = page.viewportSize() as { width: number; height: number }
      const overflow = await page.evaluate(() => document.documentElement.scrollWidth)
      assert.ok(overflow <= width, `${overflow} of ${width}`)
      const box = await page.locator(whole).boundingBox()
      assert.ok(
        box !== null && box.y + box.height <= height,
        `${whole} is not on the first screen of ${width}x${height}`,
      )
    }
  })

  test('the documentation has the header, with working links', async () => {
    const page = await newPage()
    await page.goto(`${service.base}/docs`)
    await page.locator('.opblock').first().waitFor()
    assert.equal(await page.getByRole('link', { name: 'API', exact: true }).getAttribute('aria-current'), 'page')
    await page.getByRole('link', { name: 'Playground' }).click()
    await decoded(page)
    await page.getByRole('link', { name: 'API', exact: true }).click()
    await page.locator('.opblock').first().waitFor()
  })
})
