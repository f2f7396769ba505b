import { byId } from './dom.ts'

/** Asks for the API key. Undefined if the user cancels. Only the caller keeps it. */
export function askKey(refused: boolean): Promise<string | undefined> {
  const dialog = byId('key-dialog', HTMLDialogElement)
  const form = byId('key-form', HTMLFormElement)
  const input = byId('key-input', HTMLInputElement)
  byId('key-refused', HTMLElement).hidden = !refused
  input.value = ''
  return new Promise((resolve) => {
    const controller = new AbortController()
    const { signal } = controller
    let key: string | undefined
    form.addEventListener(
      'submit',
      (event) => {
        event.preventDefault()
        const typed = input.value.trim()
        // No other character fits into a header, so no key has one.
        if (!/^[\x20-\x7e]*$/.test(typed)) {
          byId('key-refused', HTMLElement).hidden = false
          return
        }
        key = typed || undefined
        dialog.close()
      },
      { signal },
    )
    byId('key-cancel', HTMLButtonElement).addEventListener('click', () => dialog.close(), { signal })
    dialog.addEventListener(
      'close',
      () => {
        controller.abort()
        input.value = ''
        resolve(key)
      },
      { signal },
    )
    dialog.showModal()
  })
}
