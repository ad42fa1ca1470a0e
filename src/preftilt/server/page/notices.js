// What the page says of its work: how far it is, and what went wrong.

import { byId } from "./dom.js";

/** @param {boolean} is */
export function busy(is) {
  const bar = byId("progress", HTMLProgressElement);
  bar.hidden = !is;
  if (is) bar.removeAttribute("value");
  byId("stop", HTMLElement).hidden = !is;
  byId("result", HTMLElement).setAttribute("aria-busy", String(is));
}

/**
 * Said aloud, too.
 * @param {string} words
 */
export function say(words) {
  byId("status", HTMLElement).textContent = words;
  byId("working", HTMLElement).textContent = "";
}

/** @param {string} words */
export function fail(words) {
  byId("failure", HTMLElement).hidden = !words;
  byId("failure", HTMLElement).textContent = words;
}

/**
 * How far it is: shown, not said, because it changes several times a second.
 * @param {import("./request.js").State} asked
 * @param {Map<number, import("./view.js").Arrived>} arrived
 * @param {{phase: string, sampled: number}} told
 */
export function progress(asked, arrived, told) {
  const { search, n, subtrees, width } = asked;
  const all = search === "dvts" ? subtrees * width : n;
  const scored = [...arrived.values()].filter((one) => one.question_logprob !== undefined).length;
  const share = 0.5 * Math.min(arrived.size / all, 1) + 0.5 * Math.min(scored / all, 1);
  const bar = byId("progress", HTMLProgressElement);
  if (share > 0) bar.value = share;
  const sampled = told.sampled.toLocaleString("en");
  if (told.phase === "waiting") return;
  if (byId("status", HTMLElement).textContent !== "Drawing …") say("Drawing …");
  byId("working", HTMLElement).textContent = `${sampled} tokens; ${arrived.size} of ${all} answers drawn, ${scored} scored`;
}
