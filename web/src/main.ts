import { Api, type Info } from './api.ts'
import { squareOf } from './canvas.ts'
import { Decoder } from './decoder.ts'
import { byId } from './dom.ts'
import { fetchPhoto, GalleryButtons, gallery, type Photo, type Source } from './gallery.ts'
import { takeChosen, takeFiles } from './intake.ts'
import { askKey } from './key.ts'
import { Mix } from './mix.ts'
import { Notice } from './notice.ts'
import { Stage, type Subject } from './stage.ts'
import { Take } from './take.ts'
import { fromFragment, type TokenSpace, toFragment } from './tokens.ts'

const notice = new Notice()
for (const link of document.querySelectorAll('.site-header nav a[href="./"]')) link.setAttribute('aria-current', 'page')
await start().catch((error) => notice.fail(error))

async function start(): Promise<void> {
  const api = new Api(askKey)
  const info = await notice.during('Asking the service what it serves…', api.info())
  const space: TokenSpace = { model: info.model, length: info.length, codebookSize: info.codebook.size }
  describe(info)

  const decoder = new Decoder(api, info)
  const take = new Take(notice)
  const mix = new Mix({
    ...{ decoder, notice },
    onKeep: (mixed) => {
      buttons.mark(undefined)
      stage.open(mixed)
      byId('stage', HTMLElement).scrollIntoView({ block: 'start' })
    },
  })
  const stage = new Stage({
    ...{ decoder, info, notice },
    onChange: () => {
      const { subject, tokens, shown } = stage
      take.show({
        ...{ tokens: tokens.slice(0, shown), model: info.model, codebookSize: info.codebook.size, keyed: api.keyed },
        link: () => {
          const photo = subject.photo?.name
          history.replaceState(
            null,
            '',
            `#${toFragment({ tokens: [...tokens], shown, ...(photo && { photo }) }, space)}`,
          )
          return location.href
        },
      })
      mix.setFirst({ title: subject.title, tokens })
    },
  })

  /** Tokens of a source; another call for the same purpose supersedes this one. */
  const encoding = { first: new AbortController(), second: new AbortController() }
  async function encode(purpose: 'first' | 'second', get: (signal: AbortSignal) => Promise<Source>) {
    encoding[purpose].abort()
    encoding[purpose] = new AbortController()
    const { signal } = encoding[purpose]
    try {
      const work = get(signal).then(async (source) => {
        const canvas = squareOf(source.file, info.imageSize).catch(() => undefined)
        const tokens = await api.encode(source.file, signal)
        return { source, tokens, canvas: await canvas }
      })
      const encoded = await notice.during('Encoding…', work)
      return signal.aborted ? undefined : encoded
    } catch (error) {
      if (!signal.aborted) notice.fail(error)
      return undefined
    }
  }

  async function openFirst(get: (signal: AbortSignal) => Promise<Source>): Promise<void> {
    const encoded = await encode('first', get)
    if (encoded === undefined) return
    const { source, tokens, canvas } = encoded
    const { title, file, photo } = source
    stage.open({ title, tokens, ...(canvas && { original: { canvas, bytes: file.size } }), ...(photo && { photo }) })
    buttons.mark(photo)
    notice.say(
      canvas
        ? `${title}: ${tokens.length} tokens.`
        : `${title}: ${tokens.length} tokens. This browser cannot show the file itself, so there is nothing to compare with.`,
    )
  }

  async function openSecond(get: (signal: AbortSignal) => Promise<Source>): Promise<void> {
    const encoded = await encode('second', get)
    if (encoded === undefined) return
    mix.setSecond({ title: encoded.source.title, tokens: encoded.tokens })
    secondButtons.mark(encoded.source.photo)
    notice.say(`Second picture: ${encoded.source.title}.`)
  }

  /** Shows the tokens in the page's address. @returns whether there are any */
  async function openFragment(): Promise<boolean> {
    const shared = fromFragment(location.hash, space)
    if (shared === undefined) return false
    const photo = gallery.find(({ name }) => name === shared.photo)
    const subject: Subject = { title: photo?.title ?? 'Shared tokens', tokens: shared.tokens }
    if (photo === undefined) {
      stage.open(subject, shared.shown)
    } else {
      const { file } = await fetchPhoto(photo, new AbortController().signal)
      const canvas = await squareOf(file, info.imageSize)
      stage.open({ ...subject, original: { canvas, bytes: file.size }, photo }, shared.shown)
    }
    buttons.mark(photo)
    return true
  }

  const fromFile = (file: File) => async (): Promise<Source> => ({ title: file.name || 'Pasted picture', file })
  const fromPhoto = (photo: Photo) => (signal: AbortSignal) => fetchPhoto(photo, signal)
  /** A new action by the user clears the previous error. */
  const asked =
    <T>(open: (what: T) => Promise<unknown>) =>
    (what: T): void => {
      notice.clear()
      open(what).catch((error) => notice.fail(error))
    }
  const buttons = new GalleryButtons(
    byId('gallery', HTMLElement),
    asked((photo) => openFirst(fromPhoto(photo))),
  )
  const secondButtons = new GalleryButtons(
    byId('second-gallery', HTMLElement),
    asked((photo) => openSecond(fromPhoto(photo))),
  )
  takeFiles(asked((file) => openFirst(fromFile(file))))
  takeChosen(
    'choose-second',
    asked((file) => openSecond(fromFile(file))),
  )
  addEventListener('hashchange', asked(openFragment))

  // The second picture is not needed before the user opens that part.
  const watcher = new IntersectionObserver((entries) => {
    if (!entries.some(({ isIntersecting }) => isIntersecting) || gallery[1] === undefined) return
    watcher.disconnect()
    if (mix.second === undefined) void openSecond(fromPhoto(gallery[1]))
  })
  watcher.observe(byId('mixed', HTMLElement))

  const [firstPhoto] = gallery
  const opened = await openFragment().catch((error) => {
    notice.fail(error)
    return false
  })
  if (!opened && firstPhoto !== undefined) await openFirst(fromPhoto(firstPhoto))
}

/** Shows what is served. */
function describe({ name, length, imageSize, codebook, provider, version }: Info): void {
  byId('served', HTMLElement).textContent =
    `${name}: ${length} tokens of ${codebook.size.toLocaleString('en')} ids, ${imageSize} × ${imageSize} pixels, ` +
    `on ${provider.toUpperCase()}; service ${version}.`
}
