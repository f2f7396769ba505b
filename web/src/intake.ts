import { byId } from './dom.ts'

/** Every way in which a file gets onto the page: chosen, photographed, dropped, pasted. */
export function takeFiles(take: (file: File) => void): void {
  for (const id of ['choose', 'photograph']) takeChosen(id, take)

  const veil = byId('drop-veil', HTMLElement)
  const carriesFiles = (event: DragEvent) => event.dataTransfer?.types.includes('Files') ?? false
  // Entering a child fires before leaving its parent.
  let depth = 0
  addEventListener('dragenter', (event) => {
    if (!carriesFiles(event)) return
    depth++
    veil.hidden = false
  })
  addEventListener('dragleave', (event) => {
    if (!carriesFiles(event)) return
    depth = Math.max(0, depth - 1)
    veil.hidden = depth === 0
  })
  addEventListener('dragover', (event) => {
    if (carriesFiles(event)) event.preventDefault()
  })
  addEventListener('drop', (event) => {
    if (!carriesFiles(event)) return
    event.preventDefault()
    depth = 0
    veil.hidden = true
    const [file] = event.dataTransfer?.files ?? []
    if (file !== undefined) take(file)
  })

  addEventListener('paste', (event) => {
    const [file] = event.clipboardData?.files ?? []
    if (file === undefined) return
    event.preventDefault()
    take(file)
  })
}

/** Takes the file of an input; the same file may be chosen twice. */
export function takeChosen(id: string, take: (file: File) => void): void {
  const input = byId(id, HTMLInputElement)
  input.addEventListener('change', () => {
    const [file] = input.files ?? []
    if (file !== undefined) take(file)
    input.value = ''
  })
}
