/** Puts the playground's header on top of Swagger UI's page. */
import header from './header.html'

const root = location.pathname.replace(/docs(\/.*)?$/, '')
document.body.insertAdjacentHTML('afterbegin', header)
for (const link of document.querySelectorAll<HTMLAnchorElement>('.site-header a')) {
  const path = new URL(link.getAttribute('href') as string, new URL(root, location.href)).pathname
  link.href = path
  if (path === `${root}docs`) link.setAttribute('aria-current', 'page')
}
