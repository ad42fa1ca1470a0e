// Numbers in words, and the scale of λ.

const CENTRE = 5;
/** The right end of the slider; larger values can be typed. */
export const MOST = 100;

/**
 * λ at a place of the slider (0 … 1): 0 at the left, the paper's range in the middle, MOST at the right.
 * @param {number} place
 */
export function lambdaAt(place) {
  return place >= 1 ? MOST : round((CENTRE * place) / (1 + CENTRE / MOST - place));
}

/**
 * Where λ stands on the slider, 0 … 1.
 * @param {number} lambda
 */
export function placeOf(lambda) {
  const inside = Math.min(Math.max(lambda, 0), MOST);
  return ((1 + CENTRE / MOST) * inside) / (inside + CENTRE);
}

/**
 * To three significant digits.
 * @param {number} value
 */
export function round(value) {
  return Number(value.toPrecision(3));
}

/**
 * A number as people write it, with a true minus.
 * @param {number} value
 */
export function plain(value) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return String(round(value)).replace("-", "−");
}

/**
 * Nats, with two digits behind the point.
 * @param {number} value
 */
export function nats(value) {
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  return value.toFixed(2).replace(/^-0\.00$/, "0.00").replace("-", "−");
}

/**
 * A gain with its sign.
 * @param {number} value
 */
export function signed(value) {
  const text = nats(value);
  return text.startsWith("−") ? text : `+${text}`;
}

/**
 * A token with its control characters shown, not obeyed.
 * @param {string} text
 */
export function visible(text) {
  return text
    .replaceAll("\n", "↵")
    .replaceAll("\t", "→")
    .replace(/[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd");
}

/**
 * A chance, from its logarithm.
 * @param {number} logprob
 */
export function percent(logprob) {
  const share = 100 * Math.exp(logprob);
  if (share < 0.01) return share > 0 ? "< 0.01 %" : "0 %";
  return `${share >= 99.5 ? Math.round(share) : Number(share.toPrecision(2))} %`;
}

/**
 * A token in quotation marks; white space in words.
 * @param {string} piece
 */
export function quoted(piece) {
  if (piece.trim()) return `“${visible(piece).trim()}”`;
  return piece.includes("\n") ? "line break" : "white space";
}

/**
 * Round values between two numbers, about `count` of them.
 * @param {number} low
 * @param {number} high
 * @param {number} count
 */
export function ticks(low, high, count) {
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = unit * ([1, 2, 5].find((one) => one * unit >= raw) ?? 10);
  const first = Math.ceil(low / step);
  const found = [];
  for (let k = first; k * step <= high; k += 1) found.push(Number((k * step).toPrecision(12)));
  return found;
}
