/** The first bytes of an image on which `poison-child.ts` crashes. */
export const POISON = [255, 0, 255, 0, 255, 0, 255, 0, 255, 1, 2, 3]
