// An answer token by token, coloured by preference gain; a token that is looked at tells its numbers.

import { element, moveFocus } from "./dom.js";
import { nats, percent, quoted, signed, visible } from "./words.js";

const LEVELS = 4;

/**
 * @typedef {object} Told
 * @property {string[]} pieces
 * @property {number[]} question Log-prob of every token without a preference.
 * @property {number[]} gains
 * @property {number} full The gain of full colour, in nats.
 * @property {number} forked The place of the token that was put in by hand, or −1.
 */

/**
 * Show tokens in `place`; `say` is told what there is to know of the token that is looked at, `open` which is chosen.
 * @param {HTMLElement} place
 * @param {Told} told
 * @param {(text: string) => void} say
 * @param {(at: number) => void} open
 */
export function showTokens(place, told, say, open) {
  const spans = told.pieces.map((piece, t) => {
    const gain = told.gains[t] ?? 0;
    const about = numbers(piece, told.question[t] ?? 0, gain) + (t === told.forked ? "; put in by hand" : "");
    const span = element("span", {
      class: `token ${shade(gain, told.full)}${t === told.forked ? " forked" : ""}`,
      role: "option",
      "aria-selected": "false",
      tabindex: t ? "-1" : "0",
      "aria-label": about,
      "data-gain": signed(gain),
    });
    span.textContent = visible(piece);
    span.addEventListener("pointerenter", () => say(about));
    span.addEventListener("focus", () => say(about));
    span.addEventListener("click", () => open(t));
    return span;
  });
  const breaks = (/** @type {number} */ t) => [...(told.pieces[t] ?? "").matchAll(/\n/g)].map(() => element("br"));
  place.replaceChildren(...spans.flatMap((span, t) => [span, ...breaks(t)]));
  place.onkeydown = (event) => {
    const at = spans.findIndex((span) => span === document.activeElement);
    if (at >= 0 && (event.key === "Enter" || event.key === " ")) {
      event.preventDefault();
      open(at);
    } else moveFocus(event, spans);
  };
}

/**
 * Mark the token whose alternatives are shown, and no other.
 * @param {HTMLElement} place
 * @param {number} at −1 for none.
 */
export function markToken(place, at) {
  place.querySelectorAll(".token").forEach((span, t) => span.setAttribute("aria-selected", String(t === at)));
}

/**
 * Go to a token.
 * @param {HTMLElement} place
 * @param {number} at
 */
export function focusToken(place, at) {
  const spans = [...place.querySelectorAll(".token")];
  spans.forEach((span, t) => span.setAttribute("tabindex", t === at ? "0" : "-1"));
  const span = spans[at];
  if (span instanceof HTMLElement) span.focus();
}

/**
 * The class of a gain: blue steps for, orange ones (underlined, too) against.
 * @param {number} gain
 * @param {number} full
 */
export function shade(gain, full) {
  const step = Number.isNaN(gain) ? 0 : Math.round(Math.min(Math.abs(gain) / full, 1) * LEVELS);
  return step ? `${gain < 0 ? "against" : "for"}-${step}` : "";
}

/**
 * @param {string} piece
 * @param {number} question
 * @param {number} gain
 */
function numbers(piece, question, gain) {
  const chances = `${percent(question)} without the preference, ${percent(question + gain)} with it`;
  return `${quoted(piece)}: gain ${signed(gain)} nats (log-prob ${nats(question)} → ${nats(question + gain)}; ${chances})`;
}
