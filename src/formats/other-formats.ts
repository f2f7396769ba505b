/** Files that people send as images, recognised by the bytes at an offset, so that they can be refused by name. */
const signatures: [name: string, offset: number, signature: string][] = [
  ['PDF', 0, '%PDF-'],
  ['PostScript', 0, '%!PS'],
  ['BMP', 0, 'BM'],
  ['ICO', 0, '\0\0\x01\0'],
  ['a cursor', 0, '\0\0\x02\0\x01\0'],
  ['ICNS', 0, 'icns'],
  ['JPEG XL', 0, '\xff\x0a'],
  ['JPEG XL', 4, 'JXL '],
  ['JPEG 2000', 4, 'jP  '],
  ['JPEG 2000', 0, '\xff\x4f\xff\x51'],
  ['JPEG XR', 0, 'II\xbc'],
  ['PSD', 0, '8BPS'],
  ['XCF', 0, 'gimp xcf'],
  ['OpenEXR', 0, 'v/1\x01'],
  ['Radiance HDR', 0, '#?RADIANCE'],
  ['Radiance HDR', 0, '#?RGBE'],
  ['QOI', 0, 'qoif'],
  ['DDS', 0, 'DDS '],
  ['FITS', 0, 'SIMPLE  ='],
  ['DICOM', 128, 'DICM'],
  ['a NumPy array', 0, '\x93NUMPY'],
  ['a video', 0, '\x1aE\xdf\xa3'],
  ['a ZIP archive', 0, 'PK\x03\x04'],
  ['a camera raw (ORF)', 0, 'IIRO'],
  ['a camera raw (ORF)', 0, 'IIRS'],
  ['a camera raw (ORF)', 0, 'MMOR'],
  ['a camera raw (RW2)', 0, 'IIU\0'],
  ['a camera raw (RAF)', 0, 'FUJIFILMCCD-RAW'],
  ['gzip', 0, '\x1f\x8b'],
]
const portableAnymap = /^P[1-7Ff]\s/
const svg = /^(\xef\xbb\xbf)?\s*(<\?xml[^>]*>\s*)?(<!--[\s\S]*?-->\s*)*(<!DOCTYPE\s+svg\b|<(\w+:)?svg[\s>/:])/i
const html = /^(\xef\xbb\xbf)?\s*(<!doctype html|<html)/i

/** The name of an unsupported format, from a file's first bytes. */
export function otherFormat(bytes: Buffer): string | undefined {
  const start = bytes.toString('latin1', 0, 1024)
  if (svg.test(start)) return 'SVG'
  if (html.test(start)) return 'HTML'
  if (portableAnymap.test(start)) return 'a portable anymap (PNM)'
  return signatures.find(([, offset, signature]) => start.startsWith(signature, offset))?.[0]
}
