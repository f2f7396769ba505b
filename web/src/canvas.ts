import type { Picture } from './pixels.ts'

/** A separate canvas to draw on and read pixels from. */
export function contextOf(width: number, height: number): CanvasRenderingContext2D {
  const canvas = document.createElement('canvas')
  canvas.width = width
  canvas.height = height
  const context = canvas.getContext('2d', { alpha: false, willReadFrequently: true }) as CanvasRenderingContext2D
  context.imageSmoothingQuality = 'high'
  return context
}

/** Shows a picture on the page. */
export function show(canvas: HTMLCanvasElement, { width, height, data }: Picture): void {
  canvas.width = width
  canvas.height = height
  canvas.getContext('2d')?.putImageData(new ImageData(new Uint8ClampedArray(data), width, height), 0, 0)
}

/** Shows nothing. */
export function clear(canvas: HTMLCanvasElement): void {
  canvas.getContext('2d')?.clearRect(0, 0, canvas.width, canvas.height)
}

/**
 * An image file as the model sees it: upright, the centre square, on white, `size` pixels a side. The browser scales,
 * so a pixel may be a shade from the service's.
 *
 * @throws if the browser cannot show the file, as few can TIFF
 */
export async function squareOf(file: Blob, size: number): Promise<HTMLCanvasElement> {
  const bitmap = await createImageBitmap(file)
  const side = Math.min(bitmap.width, bitmap.height)
  const context = contextOf(size, size)
  context.fillStyle = '#fff'
  context.fillRect(0, 0, size, size)
  context.drawImage(bitmap, (bitmap.width - side) / 2, (bitmap.height - side) / 2, side, side, 0, 0, size, size)
  bitmap.close()
  return context.canvas
}

export function pixelsOf(canvas: HTMLCanvasElement): Picture {
  const context = canvas.getContext('2d') as CanvasRenderingContext2D
  return context.getImageData(0, 0, canvas.width, canvas.height)
}
