// The plane of question log-prob and preference gain: candidates as points, those that win for some λ joined by a line.

import { axes, HEIGHT, scaled } from "./axes.js";
import { moveFocus, shape } from "./dom.js";
import { scoreAt } from "./score.js";
import { nats, plain } from "./words.js";

/**
 * @typedef {import("./score.js").Line} Line
 * @typedef {import("./score.js").Segment} Segment
 * @typedef {import("./axes.js").Scale} Scale
 *
 * @typedef {object} Scene
 * @property {{slot: number, finish: string, copies: number}[]} candidates
 * @property {Line[]} lines One a candidate.
 * @property {Segment[]} path
 * @property {number} winner An index.
 * @property {number} shown The candidate whose tokens are shown.
 * @property {number} lambda
 * @property {{guided: Line | null, alone: Line | null}} aside Answers that are no candidates.
 * @property {string} unit
 */

const MARKS = { alone: "M0-7L7 0L0 7L-7 0Z", guided: "M-5.5-5.5H5.5V5.5H-5.5Z" };

export class Plane {
  /**
   * @param {SVGSVGElement} svg
   * @param {{look: (index: number | null) => void, pick: (index: number) => void}} told
   */
  constructor(svg, told) {
    this.svg = svg;
    this.told = told;
    this.behind = svg.appendChild(shape("g", { "aria-hidden": "true" }));
    this.points = svg.appendChild(shape("g"));
    /** @type {Map<number, SVGGElement>} */
    this.bySlot = new Map();
    /** @type {Scene | null} */
    this.scene = null;
    svg.addEventListener("keydown", (event) => moveFocus(event, [...this.bySlot.values()]));
    new ResizeObserver(() => this.scene && this.draw(this.scene)).observe(svg);
  }

  /** @param {Scene} scene */
  draw(scene) {
    this.scene = scene;
    const width = Math.max(this.svg.clientWidth, 260);
    this.svg.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
    const drawn = [...scene.candidates.keys()].filter((i) => isFinite(scoreAt(line(scene, i), 1)));
    const all = drawn.map((i) => line(scene, i));
    const aside = Object.values(scene.aside).filter((one) => one !== null);
    const scale = scaled([...all, ...aside.filter((one) => isFinite(scoreAt(one, 1)))], width);
    this.behind.replaceChildren(...axes(scale, scene.unit), ...curves(scene, scale));
    this.place(scene, drawn, scale);
    this.behind.append(...labels(scene, drawn, scale));
  }

  /**
   * Points keep their elements, so that the focus stays where it is.
   * @param {Scene} scene
   * @param {number[]} drawn
   * @param {Scale} scale
   */
  place(scene, drawn, scale) {
    const slots = new Set(drawn.map((i) => scene.candidates[i]?.slot));
    for (const [slot, point] of this.bySlot) {
      if (!slots.has(slot)) {
        point.remove();
        this.bySlot.delete(slot);
      }
    }
    const onPath = new Set(scene.path.map((one) => one.candidate));
    for (const i of drawn) {
      const slot = scene.candidates[i]?.slot ?? 0;
      const point = this.bySlot.get(slot) ?? this.add(slot);
      const { question_logprob: x, preference_gain: y } = line(scene, i);
      const kind = i === scene.winner ? "wins" : onPath.has(i) ? "on-path" : "";
      point.setAttribute("class", `point ${kind} ${i === scene.shown ? "shown" : ""}`);
      point.setAttribute("transform", `translate(${scale.x(x).toFixed(1)} ${scale.y(y).toFixed(1)})`);
      point.setAttribute("aria-label", described(scene, i));
      point.setAttribute("aria-pressed", String(i === scene.shown));
    }
    const points = [...this.bySlot.values()];
    if (points.length && !points.some((one) => one.getAttribute("tabindex") === "0")) {
      points[0]?.setAttribute("tabindex", "0");
    }
  }

  /** @param {number} slot */
  add(slot) {
    const point = shape("g", { role: "button", tabindex: -1, "data-slot": slot });
    point.append(
      shape("circle", { class: "target", r: 14 }),
      shape("circle", { class: "ring", r: 11 }),
      shape("circle", { class: "dot", r: 5 }),
      shape("path", { class: "star", d: star(10) }),
    );
    const index = () => this.scene?.candidates.findIndex((one) => one.slot === slot) ?? -1;
    point.addEventListener("pointerenter", () => this.told.look(index()));
    point.addEventListener("pointerleave", () => this.told.look(null));
    point.addEventListener("focus", () => this.told.look(index()));
    point.addEventListener("blur", () => this.told.look(null));
    point.addEventListener("click", () => this.told.pick(index()));
    point.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      this.told.pick(index());
    });
    this.bySlot.set(slot, point);
    return this.points.appendChild(point);
  }
}

/**
 * The envelope, the line of equal scores through the winner, and the answers that are no candidates.
 * @param {Scene} scene
 * @param {Scale} scale
 */
function curves(scene, scale) {
  const made = [];
  const hull = scene.path.map((one) => line(scene, one.candidate)).filter((one) => isFinite(scoreAt(one, 1)));
  const winner = scene.lines[scene.winner];
  if (winner && isFinite(scoreAt(winner, 1))) made.push(equalScores(winner, scene.lambda, scale));
  const points = hull.map((one) => `${scale.x(one.question_logprob)},${scale.y(one.preference_gain)}`);
  made.push(shape("polyline", { class: "envelope", points: points.join(" ") }));
  for (const kind of /** @type {const} */ (["alone", "guided"])) {
    const one = scene.aside[kind];
    if (!one || !isFinite(scoreAt(one, 1))) continue;
    const [x, y] = [scale.x(one.question_logprob), scale.y(one.preference_gain)];
    made.push(shape("path", { class: "aside", d: MARKS[kind], transform: `translate(${x} ${y})` }));
  }
  return made;
}

/**
 * All points that score as the winner does: candidates below it score less.
 * @param {Line} through
 * @param {number} lambda
 * @param {Scale} scale
 */
function equalScores(through, lambda, scale) {
  const { question_logprob: x, preference_gain: y } = through;
  // The direction (λ, −1), made long enough to leave the plane, which clips it.
  const reach = Math.max(
    (scale.xs[1] - scale.xs[0]) / Math.max(Math.abs(lambda), 1e-9),
    scale.ys[1] - scale.ys[0],
  );
  const far = Math.min(reach, scale.ys[1] - scale.ys[0]);
  const [dx, dy] = [lambda * far, -far];
  return shape("line", {
    class: "equal",
    "clip-path": "url(#inside)",
    x1: scale.x(x - dx),
    y1: scale.y(y - dy),
    x2: scale.x(x + dx),
    y2: scale.y(y + dy),
  });
}

/**
 * Numbers beside the points, where they cover neither a point nor each other; the path's come first.
 * @param {Scene} scene
 * @param {number[]} drawn
 * @param {Scale} scale
 */
function labels(scene, drawn, scale) {
  const spots = drawn.map((i) => ({
    i,
    x: scale.x(line(scene, i).question_logprob),
    y: scale.y(line(scene, i).preference_gain),
  }));
  const taken = spots.map((one) => ({ x: one.x, y: one.y, half: 5 }));
  const onPath = new Set(scene.path.map((one) => one.candidate));
  const weight = (/** @type {number} */ i) => (i === scene.winner ? 2 : onPath.has(i) ? 1 : 0);
  spots.sort((one, other) => weight(other.i) - weight(one.i));
  const made = [];
  for (const { i, x, y } of spots) {
    const text = String((scene.candidates[i]?.slot ?? 0) + 1);
    const half = 4 * text.length;
    const gap = weight(i) === 2 ? 16 : 12;
    const place = [60, 120, 0, 180, -60, -120, 90, -90]
      .map((degrees) => (degrees * Math.PI) / 180)
      .map((angle) => ({ x: x + (gap + half / 3) * Math.cos(angle), y: y - gap * Math.sin(angle), half }))
      .find((box) => !taken.some((one) => overlap(one, box)));
    if (!place) continue;
    taken.push(place);
    const kind = ["", "on-path", "wins"][weight(i)];
    made.push(
      shape("text", { class: `number ${kind}`, x: place.x, y: place.y + 4, "text-anchor": "middle" }, text),
    );
  }
  return made;
}

/**
 * @param {{x: number, y: number, half: number}} one
 * @param {{x: number, y: number, half: number}} other
 */
function overlap(one, other) {
  return Math.abs(one.x - other.x) < one.half + other.half && Math.abs(one.y - other.y) < 11;
}

/**
 * @param {Scene} scene
 * @param {number} index
 */
function described(scene, index) {
  const one = scene.candidates[index];
  const { question_logprob, preference_gain } = line(scene, index);
  const held = scene.path.find((segment) => segment.candidate === index);
  return [
    `Candidate ${(one?.slot ?? 0) + 1}`,
    index === scene.winner ? "chosen" : "",
    `question log-prob ${nats(question_logprob)}`,
    `preference gain ${nats(preference_gain)} ${scene.unit}`,
    held ? `best for λ from ${plain(held.start)} to ${plain(held.stop)}` : "best for no λ",
    one?.finish === "length" ? "cut off" : "",
  ]
    .filter(Boolean)
    .join(", ");
}

/**
 * @param {Scene} scene
 * @param {number} index
 * @returns {Line}
 */
function line(scene, index) {
  return scene.lines[index] ?? { question_logprob: -Infinity, preference_gain: 0 };
}

/**
 * A star of five rays.
 * @param {number} radius
 */
function star(radius) {
  const corners = Array.from({ length: 10 }, (_, k) => {
    const r = k % 2 ? radius * 0.42 : radius;
    const angle = (Math.PI * k) / 5 - Math.PI / 2;
    return `${(r * Math.cos(angle)).toFixed(2)} ${(r * Math.sin(angle)).toFixed(2)}`;
  });
  return `M${corners.join("L")}Z`;
}
