import photos from '../gallery.json' with { type: 'json' }

/** An image to encode. */
export interface Source {
  title: string
  file: Blob
  /** The gallery's photo that it is. */
  photo?: Photo
}

export interface Photo {
  /** File name, without its folder. */
  name: string
  title: string
  /** Who made it, under which terms. */
  credit: string
}

export const gallery: Photo[] = photos.map(({ file, title, credit, terms }) => ({
  name: file.slice(file.lastIndexOf('/') + 1),
  title,
  credit: `${credit}, ${terms}`,
}))

/** A photo's file. */
export async function fetchPhoto(photo: Photo, signal: AbortSignal): Promise<Source> {
  const response = await fetch(`playground/photos/${photo.name}`, { signal })
  if (!response.ok) throw new Error(`The gallery’s photo ${photo.name} is missing.`)
  return { title: photo.title, file: await response.blob(), photo }
}

/** Fills a list with a button for each photo. */
export class GalleryButtons {
  readonly #buttons = new Map<Photo, HTMLButtonElement>()

  constructor(list: HTMLElement, choose: (photo: Photo) => void) {
    for (const photo of gallery) {
      const image = document.createElement('img')
      image.src = `playground/photos/${photo.name.replace(/\.\w+$/, '')}-thumbnail.webp`
      image.alt = photo.title
      image.width = image.height = 56
      // When dragged, it would be mistaken for a file.
      image.draggable = false
      const button = document.createElement('button')
      button.type = 'button'
      button.title = `${photo.title} – ${photo.credit}`
      button.append(image)
      button.addEventListener('click', () => choose(photo))
      const item = document.createElement('li')
      item.append(button)
      list.append(item)
      this.#buttons.set(photo, button)
    }
    this.mark(undefined)
  }

  /** Shows which photo is chosen. */
  mark(chosen: Photo | undefined): void {
    for (const [photo, button] of this.#buttons) button.setAttribute('aria-pressed', String(photo === chosen))
  }
}
