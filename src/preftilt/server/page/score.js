// The mathematics of a result: every candidate's score is a line in λ, and the best of them an upper envelope.
// It is that of reward.py and path.py; the page has it so that moving λ needs no request.

/**
 * @typedef {{text: string, strength: number}} Preference
 * @typedef {{question_logprob: number, preference_gain: number}} Line A score as a function of λ, in nats.
 * @typedef {{start: number, stop: number, candidate: number}} Segment `candidate` wins for start ≤ λ < stop.
 * @typedef {{lambda: number, ratios: number[]}} Strengths λ is that of largest magnitude; λ_i = λ · ratio_i.
 *
 * @typedef {object} Settings
 * @property {Preference[]} preferences
 * @property {number} gamma
 * @property {"sum" | "mean"} reduction
 * @property {"include" | "exclude"} eos
 *
 * @typedef {object} RecordCandidate
 * @property {number} slot
 * @property {string} text
 * @property {number[]} tokens
 * @property {string} finish
 * @property {Record<string, (number | null)[]>} logprobs The question's first, then one list a preference, then those
 *   of reward models.
 *
 * @typedef {object} RecordView
 * @property {string} name
 * @property {number} weight
 * @property {object} [reader] The reward model that read it; absent where the base model did.
 *
 * @typedef {object} Candidate One distinct answer, with everything that any mix of strengths makes its score of.
 * @property {number} slot
 * @property {number} copies How often it was drawn.
 * @property {string} text
 * @property {number} length Tokens.
 * @property {string} finish
 * @property {number} question Score at λ = 0: question log-prob (nats, or nats a token under the mean), and what reward
 *   models add.
 * @property {number[]} gains Preference gain of every preference alone, in the same unit.
 * @property {string[]} pieces The tokens' texts.
 * @property {number[]} questionTokens Log-prob of every token without a preference.
 * @property {number[][]} gainTokens For every preference, the gain of every token.
 */

/**
 * The distinct candidates of a record, in its order (the best first); equal ones are counted.
 * @param {{settings: Settings, candidates: RecordCandidate[], pieces: string[][], views?: RecordView[]}} record
 * @returns {Candidate[]}
 */
export function readCandidates(record) {
  /** @type {Map<string, Candidate>} */
  const found = new Map();
  const read = (record.views ?? []).filter((view) => view.reader);
  const arms = new Map(read.map((view) => [view.name, view.weight]));
  record.candidates.forEach((one, index) => {
    const key = one.tokens.join(" ");
    const before = found.get(key);
    if (before) before.copies += 1;
    else found.set(key, readCandidate(one, record.pieces[index] ?? [], record.settings, arms));
  });
  return [...found.values()];
}

/**
 * @param {RecordCandidate} one
 * @param {string[]} pieces
 * @param {Settings} settings
 * @param {Map<string, number>} arms The weights of reward models, by the names of their views.
 * @returns {Candidate}
 */
function readCandidate(one, pieces, settings, arms) {
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
  const scored = settings.eos === "exclude" && one.finish !== "length" ? -1 : undefined;
  const add = (/** @type {number[]} */ all) => reduce(all.slice(0, scored), settings);
  const all = [question, ...views, ...added.map(([, view]) => view)];
  const possible = all.every((view) => view.slice(0, scored).every(Number.isFinite));
  const empty = question.slice(0, scored).length === 0;
  return {
    slot: one.slot,
    copies: 1,
    text: one.text,
    length: one.tokens.length,
    finish: one.finish,
    question: possible && !empty ? add(alone) : -Infinity,
    gains: gainTokens.map((all) => (possible && !empty ? add(all) : 0)),
    pieces,
    questionTokens: question,
    gainTokens,
  };
}

/**
 * Σ γ^t x_t, divided by the number of tokens under the mean.
 * @param {number[]} values
 * @param {Settings} settings
 */
function reduce(values, settings) {
  const sum = values.reduce((total, x, t) => total + settings.gamma ** t * x, 0);
  return settings.reduction === "mean" ? sum / values.length : sum;
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
 * Indices of the candidates that may win: those that ended, unless none did.
 * @param {{finish: string}[]} candidates
 * @returns {number[]}
 */
export function contenders(candidates) {
  const all = candidates.map((_, index) => index);
  const ended = all.filter((index) => candidates[index]?.finish !== "length");
  return ended.length ? ended : all;
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
 * @returns {Segment[]}
 */
export function pathOf(candidates, lines, start) {
  const able = contenders(candidates);
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
