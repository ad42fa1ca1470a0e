// The mathematics of a result: every candidate's score is a line in λ, and the best of them an upper envelope.
// It is that of reward.py and path.py; the page has it so that moving λ needs no request.

import { contenders } from "./rank.js";

/**
 * @typedef {"sum" | "mean" | "centred"} Reduction
 * @typedef {{text: string, strength: number}} Preference
 * @typedef {{question_logprob: number, preference_gain: number}} Line A score as a function of λ, in nats.
 * @typedef {{start: number, stop: number, candidate: number}} Segment `candidate` wins for start ≤ λ < stop.
 * @typedef {{lambda: number, ratios: number[]}} Strengths λ is that of largest magnitude; λ_i = λ · ratio_i.
 *
 * @typedef {object} Settings
 * @property {Preference[]} preferences
 * @property {number} gamma
 * @property {Reduction} reduction
 * @property {"include" | "exclude"} eos
 * @property {import("./rank.js").CutOff} cut_off
 *
 * @typedef {object} RecordCandidate
 * @property {number} slot
 * @property {string} text
 * @property {number[]} tokens
 * @property {string} finish
 * @property {{text: string, tokens: number}} [reasoning] What was thought before the answer, in its first tokens.
 * @property {Record<string, (number | null)[]>} logprobs The question's first, then one list a preference, then those
 *   of reward models.
 * @property {Fork} [fork] Of one that the page had drawn from another's first tokens.
 *
 * @typedef {object} Fork
 * @property {string} from The answer that it was forked from.
 * @property {number} at The place of the token that was put in, among those shown.
 * @property {import("./request.js").Manner} manner How it went on.
 * @property {string} cost
 *
 * @typedef {object} RecordView
 * @property {string} name
 * @property {number} weight
 * @property {object} [reader] The reward model that read it; absent where the base model did.
 *
 * @typedef {object} Sums What a candidate's score is made of before its reduction: discounted sums over scored tokens.
 * @property {number} question −∞ for a candidate that must not win.
 * @property {number[]} gains Of every preference.
 * @property {number} length
 *
 * @typedef {{settings: Settings, candidates: RecordCandidate[], pieces: string[][], views?: RecordView[]}} RunRecord
 *
 * @typedef {object} Candidate One distinct answer, with everything that any mix of strengths makes its score of.
 * @property {number} slot
 * @property {number} copies How often it was drawn.
 * @property {string} text
 * @property {number} length Tokens.
 * @property {string} finish
 * @property {number} question Score at λ = 0, reduced: question log-prob, and what reward models add.
 * @property {number[]} gains Preference gain of every preference alone, reduced.
 * @property {number[]} tokens Their ids, thoughts included.
 * @property {number} thoughts How many of them come before the answer.
 * @property {Fork | null} fork
 * @property {string[]} pieces The texts of the answer's tokens.
 * @property {number[]} questionTokens Log-prob of every token without a preference.
 * @property {number[][]} gainTokens For every preference, the gain of every token.
 */

/** @type {{[reduction in Reduction]: string}} What scores are measured in. */
export const UNITS = { sum: "nats", mean: "nats a token", centred: "nats a √token" };

/**
 * The distinct candidates of a record, in its order (the best first); equal ones are counted.
 * @param {RunRecord} record
 * @param {RunRecord} pool What centred scores are relative to: the record itself, or that of another answer's rivals.
 * @returns {Candidate[]}
 */
export function readCandidates(record, pool = record) {
  /** @type {Map<string, Candidate>} */
  const found = new Map();
  const arms = armsOf(record);
  const means = meansOf(pool);
  record.candidates.forEach((one, index) => {
    const key = one.tokens.join(" ");
    const before = found.get(key);
    if (before) before.copies += 1;
    else found.set(key, readCandidate(one, record.pieces[index] ?? [], record.settings, arms, means));
  });
  return [...found.values()];
}

/**
 * The weights of reward models, by the names of their views.
 * @param {RunRecord} record
 */
function armsOf(record) {
  const read = (record.views ?? []).filter((view) => view.reader);
  return new Map(read.map((view) => [view.name, view.weight]));
}

/**
 * @param {RecordCandidate} one
 * @param {string[]} pieces
 * @param {Settings} settings
 * @param {Map<string, number>} arms
 * @param {Means} means
 * @returns {Candidate}
 */
function readCandidate(one, pieces, settings, arms, means) {
  const { question: questionTokens, gainTokens, sums } = readTokens(one, settings, arms);
  const { question, gains } = reduce(sums, settings, means);
  const from = one.reasoning?.tokens ?? 0;
  return {
    slot: one.slot,
    copies: 1,
    text: one.text,
    length: one.tokens.length,
    finish: from > 0 && from === one.tokens.length ? "length" : one.finish, // It came to no answer.
    question,
    gains,
    tokens: one.tokens,
    thoughts: from,
    fork: one.fork ?? null,
    pieces: pieces.slice(from),
    questionTokens: questionTokens.slice(from),
    gainTokens: gainTokens.map((all) => all.slice(from)),
  };
}

/**
 * @param {RecordCandidate} one
 * @param {Settings} settings
 * @param {Map<string, number>} arms
 * @returns {{question: number[], gainTokens: number[][], sums: Sums}}
 */
function readTokens(one, settings, arms) {
  /** @type {number[][]} */
  const based = [];
  /** @type {[number, number[]][]} */
  const added = [];
  for (const [name, given] of Object.entries(one.logprobs)) {
    const view = given.map((x) => x ?? -Infinity);
    const weight = arms.get(name);
    if (weight === undefined) based.push(view);
    else added.push([weight, view]);
  }
  const [question = [], ...views] = based;
  const alone = question.map((q, t) =>
    added.reduce((sum, [weight, view]) => sum + weight * (view[t] ?? 0), q),
  );
  const gainTokens = views.map((view) => view.map((x, t) => x - (question[t] ?? 0)));
  const from = one.reasoning?.tokens ?? 0;
  const scored = settings.eos === "exclude" && one.finish === "eos" ? -1 : undefined;
  const add = (/** @type {number[]} */ all) =>
    all.slice(from, scored).reduce((total, x, t) => total + settings.gamma ** t * x, 0);
  const all = [question, ...views, ...added.map(([, view]) => view)];
  const possible = all.every((view) => view.slice(from, scored).every(Number.isFinite));
  const { length } = question.slice(from, scored);
  const sums = {
    question: possible && length ? add(alone) : -Infinity,
    gains: gainTokens.map((all) => (possible && length ? add(all) : 0)),
    length,
  };
  return { question, gainTokens, sums };
}

/**
 * A candidate's sums as the settings reduce them (reward.py, `reduced`).
 * @param {Sums} sums
 * @param {Settings} settings
 * @param {Means} means
 * @returns {{question: number, gains: number[]}}
 */
function reduce({ question, gains, length }, { reduction, gamma }, means) {
  if (reduction === "sum" || !Number.isFinite(question)) return { question, gains };
  if (reduction === "mean") return { question: question / length, gains: gains.map((x) => x / length) };
  const [first, second] = weights(length, gamma);
  const centred = (/** @type {number} */ x, /** @type {number} */ mean) =>
    ((x / first - mean) * first) / Math.sqrt(second);
  return {
    question: centred(question, means.question),
    gains: gains.map((x, i) => centred(x, means.gains[i] ?? 0)),
  };
}

/**
 * @typedef {{question: number, gains: number[]}} Means A token's, over a pool's candidates that can win.
 * @param {RunRecord} pool
 * @returns {Means}
 */
function meansOf(pool) {
  const arms = armsOf(pool);
  const able = pool.candidates
    .map((one) => readTokens(one, pool.settings, arms).sums)
    .filter(({ question }) => Number.isFinite(question));
  const add = (/** @type {(sums: Sums) => number} */ value) => able.reduce((sum, one) => sum + value(one), 0);
  const weight = add(({ length }) => weights(length, pool.settings.gamma)[0]) || 1;
  return {
    question: add(({ question }) => question) / weight,
    gains: (able[0]?.gains ?? []).map((_, i) => add(({ gains }) => gains[i] ?? 0) / weight),
  };
}

/**
 * Σ γ^t and Σ γ^2t over so many tokens.
 * @param {number} length
 * @param {number} gamma
 * @returns {[number, number]}
 */
function weights(length, gamma) {
  let [first, second] = [0, 0];
  for (let t = 0; t < length; t += 1) {
    first += gamma ** t;
    second += gamma ** (2 * t);
  }
  return [first, second];
}

/**
 * The candidate's line along a common factor of all strengths.
 * @param {Candidate} one
 * @param {number[]} ratios
 * @returns {Line}
 */
export function lineOf(one, ratios) {
  return { question_logprob: one.question, preference_gain: mix(one.gains, ratios) };
}

/**
 * Per-token preference gain under a mix of preferences.
 * @param {Candidate} one
 * @param {number[]} ratios
 * @returns {number[]}
 */
export function tokenGains(one, ratios) {
  return one.questionTokens.map((_, t) =>
    mix(
      one.gainTokens.map((all) => all[t] ?? 0),
      ratios,
    ),
  );
}

/**
 * @param {number[]} values
 * @param {number[]} ratios
 */
function mix(values, ratios) {
  return values.reduce((sum, x, i) => sum + (ratios[i] ?? 0) * x, 0);
}

/**
 * λ and ratios of several strengths; all ratios are 1 if every strength is 0.
 * @param {number[]} strengths
 * @returns {Strengths}
 */
export function asStrengths(strengths) {
  const lambda = strengths.reduce((best, one) => (Math.abs(one) > Math.abs(best) ? one : best), 0);
  return { lambda, ratios: strengths.map((one) => (lambda ? one / lambda : 1)) };
}

/**
 * @param {Line} line
 * @param {number} lambda
 */
export function scoreAt(line, lambda) {
  const finite = Number.isFinite(line.question_logprob) && Number.isFinite(line.preference_gain);
  return finite ? line.question_logprob + lambda * line.preference_gain : -Infinity;
}

/**
 * How much of the spread of scores λ makes (effect.py): Var((λ − 1) d) / (Var(p) + Var((λ − 1) d)), p the score at λ = 1.
 * @param {Line[]} lines
 * @param {number[]} copies How often each was drawn.
 * @param {number} lambda
 * @returns {number | null} null for fewer than two that can win, or where they do not differ.
 */
export function shareOfLambda(lines, copies, lambda) {
  const able = lines.flatMap((line, i) =>
    Number.isFinite(scoreAt(line, lambda)) ? Array.from({ length: copies[i] ?? 1 }, () => line) : [],
  );
  if (able.length < 2) return null;
  const plain = variance(able.map((line) => scoreAt(line, 1)));
  const tilt = variance(able.map((line) => (lambda - 1) * line.preference_gain));
  return plain + tilt > 0 ? tilt / (plain + tilt) : null;
}

/** @param {number[]} values */
function variance(values) {
  const mean = values.reduce((sum, x) => sum + x, 0) / values.length;
  return values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
}

/**
 * How far the preference moves a candidate's tokens: the mean of their |gain|, in nats.
 * @param {Candidate} one
 * @param {number[]} ratios
 */
export function meanMove(one, ratios) {
  const moves = tokenGains(one, ratios).map(Math.abs).filter(Number.isFinite);
  return moves.length ? moves.reduce((sum, x) => sum + x, 0) / moves.length : 0;
}

/**
 * The winners for λ ≥ start, left to right; the first of equal lines wins. Lines that are not finite never win, unless
 * none is finite: then the first holds the whole path.
 * @param {Line[]} lines
 * @param {number} start
 * @returns {Segment[]}
 */
export function upperEnvelope(lines, start = 0) {
  const finite = [...lines.keys()].filter((i) => Number.isFinite(scoreAt(at(lines, i), start)));
  if (!finite.length) return lines.length ? [{ start, stop: Infinity, candidate: 0 }] : [];
  finite.sort(
    (i, j) =>
      at(lines, i).preference_gain - at(lines, j).preference_gain ||
      scoreAt(at(lines, i), start) - scoreAt(at(lines, j), start) ||
      j - i,
  );
  /** @type {{from: number, candidate: number}[]} */
  const hull = [];
  for (const i of finite) {
    let from = start;
    while (hull.length) {
      const last = at(hull, hull.length - 1);
      from = crossing(at(lines, last.candidate), at(lines, i), start);
      if (from > last.from) break;
      hull.pop();
      from = start;
    }
    if (from < Infinity) hull.push({ from, candidate: i });
  }
  return hull.map(({ from, candidate }, k) => ({
    start: from,
    stop: hull[k + 1]?.from ?? Infinity,
    candidate,
  }));
}

/**
 * The λ from which `high` (gain not smaller) beats `low`; −∞ if it does so at `start` already.
 * @param {Line} low
 * @param {Line} high
 * @param {number} start
 */
function crossing(low, high, start) {
  const [below, above] = [scoreAt(low, start), scoreAt(high, start)];
  if (above >= below || high.preference_gain === low.preference_gain) return -Infinity;
  return start + (below - above) / (high.preference_gain - low.preference_gain);
}

/**
 * The envelope of those candidates that may win, as indices into all of them.
 * @param {{finish: string}[]} candidates
 * @param {Line[]} lines
 * @param {number} start
 * @param {import("./rank.js").CutOff} cutOff
 * @returns {Segment[]}
 */
export function pathOf(candidates, lines, start, cutOff) {
  const able = contenders(candidates, cutOff);
  const path = upperEnvelope(
    able.map((i) => at(lines, i)),
    start,
  );
  return path.map((one) => ({ ...one, candidate: at(able, one.candidate) }));
}

/**
 * The candidate that wins at λ; −1 if there is none.
 * @param {Segment[]} path
 * @param {number} lambda
 */
export function winnerAt(path, lambda) {
  return path.findLast((one) => one.start <= lambda)?.candidate ?? -1;
}

/**
 * @template T
 * @param {T[]} all
 * @param {number} index
 * @returns {T}
 */
function at(all, index) {
  return /** @type {T} */ (all[index]);
}
