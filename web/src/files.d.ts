/** The build takes these as their text. */
declare module '*.html' {
  const text: string
  export default text
}
