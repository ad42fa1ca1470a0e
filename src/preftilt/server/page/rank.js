// Who comes first: the one rule by which the page orders candidates. It is that of rank.py.

/** @typedef {"last" | "as-is"} CutOff What is done with answers that were cut off. */

/**
 * Indices of candidates, best first, the higher score before the lower and the first of equal ones; by `last`, answers
 * that were cut off come behind all that ended.
 * @param {{finish: string}[]} candidates
 * @param {number[]} scores −∞ for one that must not win.
 * @param {CutOff} cutOff
 * @returns {number[]}
 */
export function order(candidates, scores, cutOff) {
  const behind = candidates.map((one) => Number(cutOff === "last" && one.finish === "length"));
  const score = (/** @type {number} */ i) => Math.max(scores[i] ?? -Infinity, -Number.MAX_VALUE);
  return [...candidates.keys()].sort(
    (i, j) => (behind[i] ?? 0) - (behind[j] ?? 0) || score(j) - score(i) || i - j,
  );
}

/**
 * Indices of the candidates that may win at some λ: by `last`, those that were cut off only if all were.
 * @param {{finish: string}[]} candidates
 * @param {CutOff} cutOff
 * @returns {number[]}
 */
export function contenders(candidates, cutOff) {
  const all = [...candidates.keys()];
  const ended = all.filter((index) => candidates[index]?.finish !== "length");
  return cutOff === "as-is" || !ended.length ? all : ended;
}
