// What is on show: the candidates that are known so far, under the strengths of the moment.

import { lineOf, pathOf, tokenGains, winnerAt } from "./score.js";

/**
 * @typedef {import("./score.js").Candidate} Candidate
 * @typedef {import("./score.js").Line} Line
 * @typedef {import("./score.js").Segment} Segment
 *
 * @typedef {object} Arrived A candidate as a stream tells of it: at first without its score.
 * @property {number} slot
 * @property {string} text
 * @property {string} finish
 * @property {number} tokens
 * @property {number | null} [question_logprob]
 * @property {number | null} [preference_gain]
 *
 * @typedef {object} Shown
 * @property {number} slot
 * @property {number} copies
 * @property {string} text
 * @property {string} finish
 * @property {number} length
 * @property {boolean} scored
 * @property {import("./score.js").Fork | null} [fork]
 *
 * @typedef {object} View
 * @property {Shown[]} candidates
 * @property {Line[]} lines One a candidate; not finite until it is scored.
 * @property {Segment[]} path
 * @property {number} winner An index, or −1.
 * @property {number} lambda
 * @property {import("./rank.js").CutOff} cutOff
 */

const UNSCORED = { question_logprob: -Infinity, preference_gain: 0 };

/**
 * The candidates of a whole record under any strengths: exact, because all of it is a re-weighting.
 * @param {Candidate[]} candidates
 * @param {import("./score.js").Strengths} strengths
 * @param {import("./rank.js").CutOff} cutOff
 * @returns {View}
 */
export function viewOf(candidates, { lambda, ratios }, cutOff) {
  const lines = candidates.map((one) => lineOf(one, ratios));
  return ranked(
    candidates.map((one) => ({ ...one, scored: true })),
    lines,
    lambda,
    cutOff,
  );
}

/**
 * The candidates of a stream so far, under the strengths that it was asked with; equal texts are one.
 * @param {Iterable<Arrived>} arrived
 * @param {number} lambda
 * @param {import("./rank.js").CutOff} cutOff
 * @returns {View}
 */
export function viewSoFar(arrived, lambda, cutOff) {
  /** @type {Map<string, {shown: Shown, line: Line}>} */
  const found = new Map();
  for (const one of arrived) {
    const before = found.get(one.text);
    const scored = one.question_logprob !== undefined;
    const line = scored
      ? {
          question_logprob: one.question_logprob ?? -Infinity,
          preference_gain: one.preference_gain ?? 0,
        }
      : UNSCORED;
    if (before) before.shown.copies += 1;
    else {
      const { slot, text, finish } = one;
      found.set(text, { shown: { slot, copies: 1, text, finish, length: one.tokens, scored }, line });
    }
  }
  const all = [...found.values()];
  if (!all.some((one) => one.shown.scored)) {
    return { candidates: all.map((one) => one.shown), lines: all.map(() => UNSCORED), path: [], winner: -1, lambda, cutOff };
  }
  return ranked(
    all.map((one) => one.shown),
    all.map((one) => one.line),
    lambda,
    cutOff,
  );
}

/**
 * @param {Shown[]} candidates
 * @param {Line[]} lines
 * @param {number} lambda
 * @param {import("./rank.js").CutOff} cutOff
 * @returns {View}
 */
function ranked(candidates, lines, lambda, cutOff) {
  const path = pathOf(candidates, lines, Math.min(0, lambda), cutOff);
  return { candidates, lines, path, winner: winnerAt(path, lambda), lambda, cutOff };
}

/**
 * The largest |gain| of a token in any candidate: that of full colour.
 * @param {Candidate[]} candidates
 * @param {number[]} ratios
 */
export function fullGain(candidates, ratios) {
  const all = candidates.flatMap((one) => tokenGains(one, ratios)).map(Math.abs);
  return Math.max(0.1, ...all.filter(Number.isFinite));
}

