// Functions that both pages use.

export const byId = (id) => document.getElementById(id);

export function show(element, visible) {
  element.hidden = !visible;
}

// Set the text of a live region. An unchanged text would be read aloud again.
export function setStatus(element, text, bad = false) {
  if (element.textContent !== text) element.textContent = text;
  element.classList.toggle("bad", bad);
}

// An error whose text is shown to the user. status: of the server's response, 0 without one.
export class UserError extends Error {
  constructor(text, status = 0) {
    super(text);
    this.status = status;
  }
}

export function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

// Return the server's error response as a UserError.
export async function userErrorOf(response) {
  let text = `the server answered ${response.status}`;
  try {
    text = (await response.json()).error ?? text;
  } catch {
    // no JSON: the status alone has to do
  }
  return new UserError(sentence(text), response.status);
}
