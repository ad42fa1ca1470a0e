// Buttons that copy.

import { byId } from "./dom.js";

/**
 * A click on the button `id` copies `text()`, and says `told`.
 * @param {string} id
 * @param {() => string} text
 * @param {string} told
 */
export function copies(id, text, told) {
  const status = byId("copied", HTMLElement);
  byId(id, HTMLButtonElement).addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text());
      status.textContent = told;
    } catch {
      byId("code-box", HTMLDetailsElement).open = true;
      status.textContent = "The browser does not allow it here: copy by hand, from below or from the address.";
    }
  });
}
