/** The command cannot be carried out as it stands: one sentence for the user, exit status 2. */
export class OptionsError extends Error {}
