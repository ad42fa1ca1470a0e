// The drawer of a token: what else might stand there, with the preference, without it and mixed, and a way on from there.

import { byId, element, moveFocus } from "./dom.js";
import { nats, percent, plain, quoted } from "./words.js";

/**
 * @typedef {object} Alternative
 * @property {number} token
 * @property {string} text
 * @property {boolean} ends Whether it ends the answer.
 * @property {Record<string, number | null>} logprobs By view, the question's first.
 * @property {number | null} mixed
 *
 * @typedef {object} Place
 * @property {string} answer Whose token it is.
 * @property {number} at Its place, from 0.
 * @property {number} token
 * @property {string} piece
 */

export class Drawer {
  /**
   * @param {{fork: (choice: Alternative) => void, closed: () => void}} told
   */
  constructor(told) {
    this.told = told;
    this.root = byId("drawer", HTMLElement);
    /** @type {Place | null} */
    this.place = null;
    /** @type {{tokens: Alternative[], lambda: number} | null} */
    this.known = null;
    byId("drawer-close", HTMLElement).addEventListener("click", () => this.close());
    byId("drawer-nats", HTMLInputElement).addEventListener("change", () => this.draw());
    this.root.addEventListener("keydown", (event) => {
      const buttons = [...this.root.querySelectorAll("tbody button")];
      if (buttons.includes(/** @type {Element} */ (event.target))) {
        moveFocus(event, /** @type {HTMLElement[]} */ (buttons));
      }
    });
  }

  /**
   * Open at a place; what may stand there is told later.
   * @param {Place} place
   */
  open(place) {
    this.place = place;
    this.known = null;
    this.root.hidden = false;
    byId("drawer-title", HTMLElement).textContent = `Instead of ${quoted(place.piece)}`;
    byId("drawer-about", HTMLElement).textContent = `Token ${place.at + 1} of ${place.answer}: the likeliest there without the preference, with it, and mixed as guided decoding does.`;
    byId("alternatives", HTMLElement).replaceChildren();
    this.say("Reading the likeliest tokens …");
    byId("drawer-title", HTMLElement).focus({ preventScroll: true });
    this.root.scrollIntoView({ block: "nearest" });
  }

  /**
   * @param {Alternative[]} tokens The mixture's likeliest first.
   * @param {number} lambda Of the mixture.
   */
  tell(tokens, lambda) {
    const before = document.activeElement?.getAttribute("data-token");
    const first = this.known === null && document.activeElement?.id === "drawer-title";
    this.known = { tokens, lambda };
    this.draw();
    this.say("Choose one, and the answer goes on from it, as a new candidate.");
    const buttons = [...this.root.querySelectorAll("tbody button")];
    const next = buttons.find((button) => button.getAttribute("data-token") === before) ?? (first ? buttons[0] : null);
    if (next instanceof HTMLElement) next.focus({ preventScroll: true });
    if (first) this.root.scrollIntoView({ block: "nearest" });
  }

  /** @param {string} words */
  say(words) {
    byId("drawer-told", HTMLElement).textContent = words;
  }

  draw() {
    if (!this.known || !this.place) return;
    const { tokens, lambda } = this.known;
    const [first] = tokens;
    const views = Object.keys(first?.logprobs ?? {});
    const heads = [...views.map((_, k) => headOf(k, views.length)), `Mixed, λ = ${plain(lambda)}`];
    const head = element("tr", {}, element("th", { scope: "col" }, "Token"));
    head.append(...heads.map((name) => element("th", { scope: "col", class: "num" }, name)));
    const table = byId("alternatives", HTMLElement);
    const rows = tokens.map((alternative) => this.row(alternative, views));
    rows.find((row) => row.querySelector("button"))?.querySelector("button")?.setAttribute("tabindex", "0");
    table.replaceChildren(element("thead", {}, head), element("tbody", {}, ...rows));
  }

  /**
   * @param {Alternative} alternative
   * @param {string[]} views
   */
  row(alternative, views) {
    const chosen = alternative.token === this.place?.token;
    const name = element("th", { scope: "row" }, this.name(alternative, chosen));
    const cells = [...views.map((view) => alternative.logprobs[view] ?? null), alternative.mixed].map(cell);
    return element("tr", chosen ? { class: "stands", "aria-current": "true" } : {}, name, ...cells);
  }

  /**
   * A button that forks, unless the token stands there already or ends the answer.
   * @param {Alternative} alternative
   * @param {boolean} chosen
   */
  name(alternative, chosen) {
    const words = quoted(alternative.text);
    if (chosen) return element("span", {}, words, element("span", { class: "quiet" }, " stands here"));
    if (alternative.ends) return element("span", {}, words, element("span", { class: "quiet" }, " ends the answer"));
    const button = element(
      "button",
      { type: "button", tabindex: "-1", "data-token": String(alternative.token), "aria-label": `Go on from ${words} in place of ${quoted(this.place?.piece ?? "")}` },
      words,
    );
    button.addEventListener("click", () => this.told.fork(alternative));
    return button;
  }

  get isOpen() {
    return !this.root.hidden;
  }

  /** @param {boolean} back Whether the focus goes back to where the drawer was opened. */
  close(back = true) {
    if (!this.isOpen) return;
    this.root.hidden = true;
    this.place = null;
    if (back) this.told.closed();
  }
}

/**
 * @param {number} view
 * @param {number} count
 */
function headOf(view, count) {
  if (!view) return "Without";
  return count > 2 ? `With ${view}` : "With";
}

/** @param {number | null} logprob */
function cell(logprob) {
  const value = logprob ?? -Infinity;
  const inNats = byId("drawer-nats", HTMLInputElement).checked;
  const made = element("td", { class: "num share" }, inNats ? nats(value) : percent(value));
  made.style.setProperty("--share", `${100 * Math.exp(value)}%`);
  return made;
}
