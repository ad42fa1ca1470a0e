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

/** @param {Pick<Shown, "copies" | "finish" | "fork">} one */
function ending(one) {
  const copies = one.copies > 1 ? `, drawn ${one.copies} times` : "";
  const cut = one.finish === "length" ? ", cut off at the limit of tokens" : "";
  const fork = one.fork ? `; ${MANNERS[one.fork.manner]} from token ${one.fork.at + 1} of ${one.fork.from} on: ${one.fork.cost}` : "";
  return copies + cut + fork;
}

const MANNERS = { sampled: "sampled", guided: "guided", alone: "the model's likeliest" };

/**
 * Why an answer scores as it does: a candidate, or one that stands beside them.
 * @param {string} title
 * @param {Pick<Shown, "copies" | "finish" | "fork" | "length"> | null | undefined} one
 * @param {import("./score.js").Line | null | undefined} line
 * @param {number} lambda
 * @param {string} unit
 */
export function showScore(title, one, line, lambda, unit) {
  text("why-title", one ? `${title}, token by token` : "");
  if (!one || !line) return text("why-score", "");
  const { question_logprob: q, preference_gain: gain } = line;
  text(
    "why-score",
    `score ${nats(scoreAt(line, lambda))} = question log-prob ${nats(q)} + λ ${plain(lambda)} × gain ${nats(gain)} ${unit}; ${one.length} tokens${ending(one)}`,
  );
}

/**
 * An answer's tokens, coloured; before the record is there, its text.
 * @param {Candidate | null | undefined} one
 * @param {string} otherwise
 * @param {number[]} ratios
 * @param {number} full
 * @param {(at: number) => void} open
 */
export function showWhy(one, otherwise, ratios, full, open) {
  const place = byId("tokens", HTMLElement);
  text("token-told", "");
  if (!one || !one.pieces.length) {
    place.replaceChildren(otherwise);
    return;
  }
  const gains = tokenGains(one, ratios);
  const told = { pieces: one.pieces, question: one.questionTokens, gains, full, forked: one.fork?.at ?? -1 };
  showTokens(place, told, (words) => text("token-told", words), open);
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
  const fork = one.fork ? [element("span", { class: "quiet" }, " fork")] : [];
  return element(
    "tr",
    { "data-slot": String(one.slot) },
    element("th", { scope: "row" }, button, ...fork),
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

/**
 * What an answer took, in a line.
 * @param {any} record
 */
export function costOf({ usage, timing }) {
  const all = (/** @type {Record<string, number>} */ counts) => Object.values(counts).reduce((sum, x) => sum + x, 0);
  const tokens = (/** @type {number} */ x) => `${x.toLocaleString("en")} tokens`;
  const guided = all(usage.guided ?? {});
  return [
    `${tokens(usage.sampled)} sampled`,
    guided ? `${guided.toLocaleString("en")} distributions mixed` : "",
    all(usage.scored) ? `${tokens(all(usage.scored))} scored` : "",
    `${plain(timing.total)} s`,
  ]
    .filter(Boolean)
    .join(", ");
}

/** @param {any} record Or nothing, while there is none. */
export function showCost(record) {
  byId("notes", HTMLElement).replaceChildren();
  if (!record) return text("cost", "");
  text("cost", `${costOf(record)}; ${record.model} on ${record.engine}, seed ${record.seed}.`);
  byId("notes", HTMLElement).replaceChildren(...record.notes.map((/** @type {string} */ note) => element("li", {}, note)));
}
