/** The element with this id, which must exist. */
export function byId<T extends HTMLElement>(id: string, type: new () => T): T {
  const element = document.getElementById(id)
  if (!(element instanceof type)) throw new Error(`the page has no ${type.name} #${id}`)
  return element
}

/** A colour for a token: the same id always has the same, near ids have different ones. */
export function colour(element: HTMLElement, id: number): void {
  // The golden angle spreads hues evenly, however many ids there are.
  element.style.setProperty('--hue', ((id * 137.508) % 360).toFixed(1))
  element.style.setProperty('--tone', (0.62 + ((id * 0.618) % 1) * 0.2).toFixed(3))
}

/** Formats a file size for people. */
export function fileSize(bytes: number): string {
  if (bytes < 1000) return `${bytes} bytes`
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`
}

export function decibels(psnr: number): string {
  return `${psnr.toFixed(1)} dB`
}

export function plural(count: number, what: string): string {
  return `${count} ${what}${count === 1 ? '' : 's'}`
}
