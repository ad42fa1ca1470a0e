// The axes of the plane.

import { shape } from "./dom.js";
import { plain, ticks } from "./words.js";

export const HEIGHT = 380;
const MARGIN = { left: 58, right: 18, top: 18, bottom: 48 };

/**
 * @typedef {{x: (value: number) => number, y: (value: number) => number, width: number,
 *   xs: [number, number], ys: [number, number]}} Scale
 */

/**
 * Where things stand so that all `lines` are seen.
 * @param {import("./score.js").Line[]} lines
 * @param {number} width
 * @returns {Scale}
 */
export function scaled(lines, width) {
  const xs = spread(lines.map((one) => one.question_logprob));
  const ys = spread(lines.map((one) => one.preference_gain));
  const across = width - MARGIN.left - MARGIN.right;
  const down = HEIGHT - MARGIN.top - MARGIN.bottom;
  return {
    width,
    xs,
    ys,
    x: (value) => MARGIN.left + (across * (value - xs[0])) / (xs[1] - xs[0]),
    y: (value) => HEIGHT - MARGIN.bottom - (down * (value - ys[0])) / (ys[1] - ys[0]),
  };
}

/**
 * @param {number[]} values
 * @returns {[number, number]}
 */
function spread(values) {
  const finite = values.filter(Number.isFinite);
  const [low, high] = finite.length ? [Math.min(...finite), Math.max(...finite)] : [-1, 1];
  const room = (high - low || 1) * 0.1;
  return [low - room, high + room];
}

/**
 * Grid, numbers and names of both axes, and the rectangle that other lines are cut off at.
 * @param {Scale} scale
 * @param {string} unit
 */
export function axes(scale, unit) {
  const bottom = HEIGHT - MARGIN.bottom;
  const right = scale.width - MARGIN.right;
  const clip = shape("clipPath", { id: "inside" });
  clip.append(
    shape("rect", { x: MARGIN.left, y: MARGIN.top, width: right - MARGIN.left, height: bottom - MARGIN.top }),
  );
  /** @type {SVGElement[]} */
  const made = [clip];
  for (const value of ticks(...scale.xs, scale.width / 90)) {
    const x = scale.x(value);
    made.push(shape("line", { class: "gridline", x1: x, x2: x, y1: MARGIN.top, y2: bottom }));
    made.push(shape("text", { class: "tick", x, y: bottom + 18, "text-anchor": "middle" }, plain(value)));
  }
  for (const value of ticks(...scale.ys, 6)) {
    const y = scale.y(value);
    const kind = value === 0 ? "gridline zero" : "gridline";
    made.push(shape("line", { class: kind, x1: MARGIN.left, x2: right, y1: y, y2: y }));
    made.push(
      shape("text", { class: "tick", x: MARGIN.left - 8, y: y + 4, "text-anchor": "end" }, plain(value)),
    );
  }
  const middle = (MARGIN.left + right) / 2;
  const centre = (MARGIN.top + bottom) / 2;
  made.push(
    shape("text", { class: "axis", x: middle, y: HEIGHT - 8, "text-anchor": "middle" }, `question log-prob (${unit}) →`),
    shape(
      "text",
      { class: "axis", "text-anchor": "middle", transform: `translate(14 ${centre}) rotate(-90)` },
      `preference gain (${unit}) →`,
    ),
  );
  return made;
}
