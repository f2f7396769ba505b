import { BundleError } from '../errors.ts'

/**
 * Checks `codebook.npy` against the manifest: NumPy format version 1, float32, little-endian, C order, `[size, dimension]`.
 * @throws BundleError
 */
export function checkCodebook(bytes: Buffer, { size, dimension }: { size: number; dimension: number }): void {
  const wanted = `float32 [${size},${dimension}]`
  if (bytes.length < 10 || bytes.toString('latin1', 0, 8) !== '\x93NUMPY\x01\x00') {
    throw new BundleError(`codebook.npy: is not a NumPy file of version 1; the manifest says ${wanted}`)
  }
  const start = 10 + bytes.readUInt16LE(8)
  const header = bytes.toString('latin1', 10, start).trim()
  const fits =
    /'descr':\s*'<f4'/.test(header) &&
    /'fortran_order':\s*False/.test(header) &&
    new RegExp(`'shape':\\s*\\(${size},\\s*${dimension}\\)`).test(header)
  if (!fits) throw new BundleError(`codebook.npy: header is ${header}, but the manifest says ${wanted}`)
  const length = bytes.length - start
  if (length !== size * dimension * Float32Array.BYTES_PER_ELEMENT) {
    throw new BundleError(`codebook.npy: holds ${length} bytes of data, but the manifest says ${wanted}`)
  }
}
