// Which sentences of the preferences carry an answer: asked for by a button, for it costs a pass a sentence.

import { byId, element } from "./dom.js";
import { signed } from "./words.js";

/**
 * @typedef {object} Influence
 * @property {{source: string, text: string, nats: number | null, dead: boolean}[]} sentences
 * @property {number | null} total
 * @property {string[]} notes
 */

/**
 * Show nothing but the button; `able` says whether there is an answer to ask about.
 * @param {boolean} able
 */
export function clearInfluence(able) {
  byId("carries", HTMLElement).replaceChildren();
  byId("carries-ask", HTMLButtonElement).hidden = !able;
}

/** @param {string} words */
export function sayInfluence(words) {
  byId("carries", HTMLElement).replaceChildren(element("p", { class: "quiet" }, words));
}

/** @param {Influence} told */
export function showInfluence(told) {
  const value = (/** @type {number | null} */ x) => x ?? -Infinity;
  const most = Math.max(...told.sentences.map(({ nats }) => Math.abs(value(nats))));
  const rows = told.sentences.map(({ text, nats, dead }) => {
    const share = most > 0 && Number.isFinite(most) ? Math.abs(value(nats)) / most : 0;
    const bar = element("span", { class: value(nats) < 0 ? "bar against" : "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", `${100 * share}%`);
    return element(
      "li",
      dead ? { class: "dead" } : {},
      element("span", { class: "num" }, `${signed(value(nats))} nats`),
      bar,
      element("span", {}, text, dead ? element("b", {}, " dead: the answer is as likely without it") : ""),
    );
  });
  const about =
    "log p(answer) less what it is without the sentence; all of them together: " + `${signed(value(told.total))} nats.`;
  byId("carries", HTMLElement).replaceChildren(
    element("ul", {}, ...rows),
    element("p", { class: "quiet" }, [about, ...told.notes].join(" ")),
  );
}
