// The three answers side by side: the chosen one of many, the guided one, and that of the model alone.

import { byId } from "./dom.js";
import { scoreAt } from "./score.js";
import { nats, plain } from "./words.js";

/** @typedef {"chosen" | "guided" | "alone"} Card */

/** @type {Card[]} */
export const CARDS = ["chosen", "guided", "alone"];

const set = (/** @type {string} */ id, /** @type {string} */ words) => {
  const place = byId(id, HTMLElement);
  if (place.textContent !== words) place.textContent = words;
};

/**
 * An answer's text, and whether its tokens can be shown.
 * @param {Card} card
 * @param {string} text
 * @param {boolean} known Whether its tokens are there.
 */
export function showAnswer(card, text, known) {
  set(card, text);
  byId(`${card}-show`, HTMLButtonElement).disabled = !known;
}

/**
 * What it scores at the moment's λ, and what it took.
 * @param {Card} card
 * @param {import("./score.js").Line | null | undefined} line
 * @param {number} lambda
 * @param {string} cost
 */
export function showPrice(card, line, lambda, cost) {
  const score = line ? `Score ${nats(scoreAt(line, lambda))} at λ = ${plain(lambda)}. ` : "";
  set(`${card}-cost`, cost && `${score}${cost}.`);
}

/**
 * Which card's tokens are shown below, by its button.
 * @param {Card | null} shown
 */
export function markCard(shown) {
  for (const card of CARDS) byId(`${card}-show`, HTMLElement).setAttribute("aria-pressed", String(card === shown));
}

/**
 * How the guided answer was drawn, or why there is none; a button draws it at another λ.
 * @param {{drawn: number | null, now: number, again: boolean, why: string}} about `drawn`: its λ; `again`: whether the
 *   strengths are others now.
 */
export function showGuidance({ drawn, now, again, why }) {
  const button = byId("guided-again", HTMLButtonElement);
  set("guided-about", why || (drawn === null ? "λ at every token." : `λ = ${plain(drawn)} at every token, the likeliest each time.`));
  button.hidden = !again;
  button.textContent = `Guide at λ = ${plain(now)}`;
  byId("guided-card", HTMLElement).classList.toggle("without", Boolean(why));
}
