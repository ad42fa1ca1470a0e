// The result's texts: the chosen answer, a candidate's tokens, the table, the model's own answer.

import { byId, element } from "./dom.js";
import { contenders, order } from "./rank.js";
import { meanMove, scoreAt, shareOfLambda, tokenGains } from "./score.js";
import { shade, showTokens } from "./tokens.js";
import { nats, plain, signed } from "./words.js";

/**
 * @typedef {import("./view.js").View} View
 * @typedef {import("./view.js").Shown} Shown
 * @typedef {import("./score.js").Candidate} Candidate
 */

const text = (/** @type {string} */ id, /** @type {string} */ words) => {
  const place = byId(id, HTMLElement);
  if (place.textContent !== words) place.textContent = words;
};

/** @param {{slot: number} | undefined} one */
export function name(one) {
  return one ? String(one.slot + 1) : "";
}

/**
 * The answer that λ chooses; it is changed only when it changes, because a change is read aloud.
 * @param {View} view
 */
export function showChosen(view) {
  const one = view.candidates[view.winner];
  text("chosen-about", one ? `Candidate ${name(one)} of ${drawn(view)}${ending(one)}` : "No answer is scored yet.");
  text("chosen", one?.text ?? "");
}

/**
 * What λ and the preference did, in a line.
 * @param {View} view
 * @param {Candidate | undefined} chosen With its tokens, once the record is there.
 * @param {number[]} ratios
 */
export function showEffect(view, chosen, ratios) {
  if (!chosen) return text("effect", "");
  const able = contenders(view.candidates, view.cutOff);
  const share = shareOfLambda(
    able.flatMap((i) => view.lines[i] ?? []),
    able.map((i) => view.candidates[i]?.copies ?? 1),
    view.lambda,
  );
  const made = share === null ? "" : `λ = ${plain(view.lambda)} makes ${Math.round(100 * share)} % of the spread of the scores. `;
  text("effect", `${made}The preference moves the answer's tokens by ${nats(meanMove(chosen, ratios))} nats each.`);
}

/** @param {View} view */
function drawn(view) {
  return view.candidates.reduce((sum, one) => sum + one.copies, 0);
}

/** @param {Shown} one */
function ending(one) {
  const copies = one.copies > 1 ? `, drawn ${one.copies} times` : "";
  return copies + (one.finish === "length" ? ", cut off at the limit of tokens" : "");
}

/**
 * Why a candidate scores as it does.
 * @param {View} view
 * @param {number} index
 * @param {string} unit
 */
export function showScore(view, index, unit) {
  const [one, line] = [view.candidates[index], view.lines[index]];
  text("why-title", one ? `Candidate ${name(one)}${index === view.winner ? ", the chosen one" : ""}, token by token` : "");
  if (!one || !line) return text("why-score", "");
  const { question_logprob: q, preference_gain: gain } = line;
  text(
    "why-score",
    `score ${nats(scoreAt(line, view.lambda))} = question log-prob ${nats(q)} + λ ${plain(view.lambda)} × gain ${nats(gain)} ${unit}; ${one.length} tokens${ending(one)}`,
  );
}

/**
 * A candidate's tokens, coloured; before the record is there, its text.
 * @param {Candidate | undefined} one
 * @param {string} otherwise
 * @param {number[]} ratios
 * @param {number} full
 */
export function showWhy(one, otherwise, ratios, full) {
  const place = byId("tokens", HTMLElement);
  text("token-told", "");
  if (!one || !one.pieces.length) {
    place.replaceChildren(otherwise);
    return;
  }
  const gains = tokenGains(one, ratios);
  showTokens(place, { pieces: one.pieces, question: one.questionTokens, gains, full }, (told) => text("token-told", told));
}

/** @param {number} full */
export function showScale(full) {
  const steps = [-1, -0.5, 0, 0.5, 1].map((share) => {
    const chip = element("span", { class: `token ${shade(share * full, full)}` });
    chip.textContent = signed(share * full);
    return chip;
  });
  byId("token-scale", HTMLElement).replaceChildren("Gain of a token, in nats: ", ...steps);
}

/**
 * The table, best first at this λ. Rows are kept, so that the focus is.
 * @param {View} view
 * @param {number} shown
 * @param {(index: number) => void} pick
 */
export function showTable(view, shown, pick) {
  const body = byId("rows", HTMLElement);
  const best = order(view.candidates, view.lines.map((line) => scoreAt(line, view.lambda)), view.cutOff);
  const before = new Map([...body.children].map((row) => [row.getAttribute("data-slot"), row]));
  const rows = best.map((i) => {
    const one = /** @type {Shown} */ (view.candidates[i]);
    const row = before.get(String(one.slot)) ?? newRow(one);
    const button = row.querySelector("button");
    if (button) {
      button.onclick = () => pick(i);
      button.setAttribute("aria-pressed", String(i === shown));
    }
    row.className = [i === view.winner ? "wins" : "", i === shown ? "shown" : ""].join(" ").trim();
    fill(row, view, i);
    return row;
  });
  rows.forEach((row, k) => {
    if (body.children[k] !== row) body.insertBefore(row, body.children[k] ?? null);
  });
  while (body.children.length > rows.length) body.lastElementChild?.remove();
}

/** @param {Shown} one */
function newRow(one) {
  const button = element("button", { type: "button", class: "plain", "aria-label": `Candidate ${name(one)}: show its tokens` }, name(one));
  const numbers = [0, 1, 2].map(() => element("td", { class: "num" }));
  return element(
    "tr",
    { "data-slot": String(one.slot) },
    element("th", { scope: "row" }, button),
    ...numbers,
    element("td"),
    element("td", {}, element("div", { class: "words" })),
  );
}

/**
 * @param {Element} row
 * @param {View} view
 * @param {number} i
 */
function fill(row, view, i) {
  const [one, line] = [view.candidates[i], view.lines[i]];
  if (!one || !line) return;
  const held = view.path.filter((segment) => segment.candidate === i);
  const told = one.scored
    ? [scoreAt(line, view.lambda), line.question_logprob, line.preference_gain].map(nats)
    : ["…", "…", "…"];
  const cells = row.querySelectorAll("td");
  const words = [
    ...told,
    one.scored ? held.map((segment) => `${plain(segment.start)} to ${plain(segment.stop)}`).join() : "",
    one.text + (one.finish === "length" ? " … (cut off)" : ""),
  ];
  words.forEach((said, k) => {
    const cell = k === words.length - 1 ? row.querySelector(".words") : cells[k];
    if (cell && cell.textContent !== said) cell.textContent = said;
  });
}

/** @param {any} record Or nothing, while there is none. */
export function showCost(record) {
  byId("notes", HTMLElement).replaceChildren();
  if (!record) return text("cost", "");
  const { usage, timing } = record;
  const all = (/** @type {Record<string, number>} */ counts) => Object.values(counts).reduce((sum, x) => sum + x, 0);
  const tokens = (/** @type {number} */ x) => `${x.toLocaleString("en")} tokens`;
  text(
    "cost",
    `${tokens(usage.sampled)} sampled, ${tokens(all(usage.scored))} scored, ${plain(timing.total)} s; ${record.model} on ${record.engine}, seed ${record.seed}.`,
  );
  byId("notes", HTMLElement).replaceChildren(...record.notes.map((/** @type {string} */ note) => element("li", {}, note)));
}
