// An answer token by token, coloured by preference gain; a token that is looked at tells its numbers.

import { element, moveFocus } from "./dom.js";
import { nats, signed, visible } from "./words.js";

const LEVELS = 4;

/**
 * @typedef {object} Told
 * @property {string[]} pieces
 * @property {number[]} question Log-prob of every token without a preference.
 * @property {number[]} gains
 * @property {number} full The gain of full colour, in nats.
 */

/**
 * Show tokens in `place`; `say` is told what there is to know of the token that is looked at.
 * @param {HTMLElement} place
 * @param {Told} told
 * @param {(text: string) => void} say
 */
export function showTokens(place, told, say) {
  const spans = told.pieces.map((piece, t) => {
    const gain = told.gains[t] ?? 0;
    const about = numbers(piece, told.question[t] ?? 0, gain);
    const span = element("span", {
      class: `token ${shade(gain, told.full)}`,
      role: "option",
      tabindex: t ? "-1" : "0",
      "aria-label": about,
      "data-gain": signed(gain),
    });
    span.textContent = visible(piece);
    span.addEventListener("pointerenter", () => say(about));
    span.addEventListener("focus", () => say(about));
    return span;
  });
  const breaks = (/** @type {number} */ t) => [...(told.pieces[t] ?? "").matchAll(/\n/g)].map(() => element("br"));
  place.replaceChildren(...spans.flatMap((span, t) => [span, ...breaks(t)]));
  place.onkeydown = (event) => moveFocus(event, spans);
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
  const share = (/** @type {number} */ logprob) => `${(100 * Math.exp(logprob)).toPrecision(2)} %`;
  const shown = piece.trim() ? `“${visible(piece).trim()}”` : "white space";
  const chances = `${share(question)} without the preference, ${share(question + gain)} with it`;
  return `${shown}: gain ${signed(gain)} nats (log-prob ${nats(question)} → ${nats(question + gain)}; ${chances})`;
}
