// The sliders: λ of all preferences together, or of each; above the first, which candidate holds which λ.

import { byId, element } from "./dom.js";
import { lambdaAt, MOST, placeOf, plain, round } from "./words.js";

const STEPS = 400;
const MARKS = [0, 1, 2, 5, 10, 20, 50, 100];

export class StrengthPanel {
  /**
   * @param {{together: (lambda: number) => void, each: (index: number, strength: number) => void}} moved
   */
  constructor(moved) {
    this.moved = moved;
    this.slider = byId("lambda", HTMLInputElement);
    this.number = byId("lambda-number", HTMLInputElement);
    this.eachBox = byId("each", HTMLElement);
    this.slider.addEventListener("input", () => moved.together(lambdaAt(Number(this.slider.value) / STEPS)));
    this.number.addEventListener("input", () => {
      if (this.number.value !== "" && this.number.validity.valid) moved.together(Number(this.number.value));
    });
    byId("marks", HTMLElement).append(
      ...MARKS.map((one) => {
        const mark = element("span", {}, String(one));
        mark.style.left = `${100 * placeOf(one)}%`;
        return mark;
      }),
    );
  }

  /**
   * A slider for every preference, if there are several.
   * @param {string[]} texts
   */
  offer(texts) {
    const rows = texts.map((text, i) => {
      const slider = element("input", { type: "range", min: "0", max: String(STEPS), "aria-label": `Strength of: ${text}` });
      slider.addEventListener("input", () => this.moved.each(i, lambdaAt(Number(slider.value) / STEPS)));
      return element("div", { class: "one" }, element("span", {}, text), slider, element("output"));
    });
    this.eachBox.hidden = texts.length < 2;
    this.eachBox.replaceChildren(
      element(
        "p",
        { class: "quiet" },
        "λ is the largest strength, and moving it scales all of them together; the plane shows their mix. Or move one alone:",
      ),
      ...rows,
    );
  }

  /**
   * @param {number} lambda
   * @param {number[]} strengths
   */
  show(lambda, strengths) {
    set(this.slider, lambda);
    if (document.activeElement !== this.number) this.number.value = String(round(lambda));
    [...this.eachBox.querySelectorAll("input")].forEach((slider, i) => {
      set(slider, strengths[i] ?? 0);
      const output = slider.nextElementSibling;
      if (output) output.textContent = plain(strengths[i] ?? 0);
    });
  }

  /**
   * Who holds which part of the slider, and where that changes.
   * @param {import("./score.js").Segment[]} path
   * @param {number} winner
   * @param {(index: number) => string} name
   */
  draw(path, winner, name) {
    const parts = path.map((one, k) => {
      const [left, right] = [placeOf(one.start), placeOf(Math.min(one.stop, MOST))];
      const part = element("span", { class: one.candidate === winner ? "wins" : "" });
      part.style.left = `${100 * left}%`;
      part.style.width = `${100 * (right - left)}%`;
      part.classList.toggle("odd", k % 2 === 1);
      if (right - left > 0.045) part.textContent = name(one.candidate);
      return part;
    });
    byId("strip", HTMLElement).replaceChildren(...parts);
    const changes = path.slice(1).map((one) => plain(one.start));
    byId("changes", HTMLElement).textContent = changes.length
      ? `The strip tells which of these candidates is chosen at which λ. It changes at λ = ${changes.join(", ")}.`
      : path.length ? `Of these candidates the same one is chosen for every λ from ${plain(path[0]?.start ?? 0)}.` : "";
  }
}

/**
 * @param {HTMLInputElement} slider
 * @param {number} value
 */
function set(slider, value) {
  if (lambdaAt(Number(slider.value) / STEPS) !== value) slider.value = String(Math.round(STEPS * placeOf(value)));
  slider.setAttribute("aria-valuetext", `λ ${plain(value)}`);
}
