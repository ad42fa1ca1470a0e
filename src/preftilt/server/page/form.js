// The form: what it holds as a state, and back.

import { byId, element } from "./dom.js";
import { asCutOff, asReduction, EXAMPLE, MOST_PREFERENCES, number, share, whole } from "./request.js";

/** @typedef {import("./request.js").State} State */

const input = (/** @type {string} */ id) => byId(id, HTMLInputElement);
const select = (/** @type {string} */ id) => byId(id, HTMLSelectElement);

/**
 * @param {HTMLSelectElement} field
 * @param {string | null} value null is the one that the server marked as its own.
 */
function choose(field, value) {
  for (const one of field.options) one.selected = value === null ? one.defaultSelected : one.value === value;
}

export class Form {
  /** @param {() => void} changed */
  constructor(changed) {
    this.changed = changed;
    this.root = byId("ask", HTMLFormElement);
    this.list = byId("preferences", HTMLOListElement);
    this.root.addEventListener("input", (event) => {
      this.tidy();
      if (event.target !== input("key")) changed();
    });
    byId("add", HTMLButtonElement).addEventListener("click", () => {
      this.addRow("", 3).focus();
      this.tidy();
      changed();
    });
  }

  get key() {
    return input("key").value;
  }

  /** Show the field for the key, and go there. */
  askForKey() {
    byId("key-row", HTMLElement).hidden = false;
    input("key").focus();
  }

  /** @param {string[]} names */
  offerModels(names) {
    const before = select("model").value;
    select("model").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    if (names.includes(before)) select("model").value = before;
    this.tidy();
  }

  /** @param {State} state */
  write(state) {
    byId("question", HTMLTextAreaElement).value = state.question;
    this.list.replaceChildren();
    for (const one of state.preferences) this.addRow(one.text, one.strength);
    select("search").value = state.search;
    for (const name of /** @type {const} */ (["n", "subtrees", "width", "seed"])) {
      input(name).value = String(state[name]);
    }
    input("top-p").value = String(state.topP);
    input("max-tokens").value = state.maxTokens === null ? "" : String(state.maxTokens);
    choose(select("reduction"), state.reduction);
    choose(select("cut-off"), state.cutOff);
    if (state.model) {
      const names = [...select("model").options].map((one) => one.value);
      if (!names.includes(state.model)) select("model").append(element("option", {}, state.model));
      select("model").value = state.model;
    }
    this.tidy();
  }

  /** @param {number[]} strengths */
  writeStrengths(strengths) {
    this.rows().forEach((row, i) => {
      if (document.activeElement !== row.strength) row.strength.value = String(strengths[i] ?? "");
    });
  }

  /**
   * What the form holds; a number that makes no sense is the example's, and `problem` tells of it.
   * @returns {State}
   */
  read() {
    return {
      model: select("model").value,
      question: byId("question", HTMLTextAreaElement).value,
      preferences: this.rows().map((row) => ({
        text: row.text.value,
        strength: number(row.strength.value) ?? 0,
      })),
      search: select("search").value === "dvts" ? "dvts" : "best-of-n",
      n: whole(input("n").value, 1) ?? EXAMPLE.n,
      subtrees: whole(input("subtrees").value, 1) ?? EXAMPLE.subtrees,
      width: whole(input("width").value, 1) ?? EXAMPLE.width,
      seed: whole(input("seed").value, 0) ?? EXAMPLE.seed,
      topP: share(input("top-p").value) ?? EXAMPLE.topP,
      maxTokens: whole(input("max-tokens").value, 1),
      reduction: asReduction(select("reduction").value),
      cutOff: asCutOff(select("cut-off").value),
    };
  }

  /**
   * The first thing that cannot be sent: a sentence and its field, or null.
   * @returns {{sentence: string, field: HTMLElement} | null}
   */
  problem() {
    const question = byId("question", HTMLTextAreaElement);
    if (!question.value.trim()) return { sentence: "Type a question.", field: question };
    for (const { text, strength } of this.rows()) {
      if (!text.value.trim()) return { sentence: "State the preference, or remove it.", field: text };
      if (number(strength.value) === null) return { sentence: "A strength λ is a number.", field: strength };
    }
    for (const [id, least] of /** @type {const} */ ([["n", 1], ["subtrees", 1], ["width", 1], ["seed", 0], ["max-tokens", 1]])) {
      const field = input(id);
      const empty = id === "max-tokens" && !field.value && !field.validity.badInput;
      if (!empty && !field.closest("[hidden]") && whole(field.value, least) === null) {
        const name = field.labels?.[0]?.textContent ?? id;
        return { sentence: `${name}: give a whole number of at least ${least}.`, field };
      }
    }
    if (share(input("top-p").value) === null) {
      return { sentence: "Top-p: give a number above 0 and at most 1.", field: input("top-p") };
    }
    return null;
  }

  rows() {
    return [...this.list.children].map((row) => {
      const [text, strength] = [row.querySelector("textarea"), row.querySelector("input")];
      if (!text || !strength) throw new Error("a preference has lost its fields");
      return { row, text, strength };
    });
  }

  /**
   * @param {string} text
   * @param {number} strength
   */
  addRow(text, strength) {
    this.list.append(byId("preference-row", HTMLTemplateElement).content.cloneNode(true));
    const made = this.rows().at(-1);
    if (!made) throw new Error("the template of a preference is empty");
    [made.text.value, made.strength.value] = [text, String(strength)];
    made.row.querySelector("button")?.addEventListener("click", () => {
      made.row.remove();
      byId("add", HTMLButtonElement).focus();
      this.tidy();
      this.changed();
    });
    return made.text;
  }

  /** Show what applies to the search, and say the settings in a line. */
  tidy() {
    const { value } = select("search");
    for (const one of this.root.querySelectorAll("[data-search]")) {
      /** @type {HTMLElement} */ (one).hidden = one.getAttribute("data-search") !== value;
    }
    this.rows().forEach(({ row, text }, i, all) => {
      text.setAttribute("aria-label", all.length > 1 ? `Preference ${i + 1}` : "Preference");
      const remove = row.querySelector("button");
      if (remove) remove.hidden = all.length === 1;
    });
    byId("add", HTMLButtonElement).hidden = this.rows().length >= MOST_PREFERENCES;
    const state = this.read();
    const size = state.search === "dvts" ? `DVTS ${state.subtrees} × ${state.width}` : `best of ${state.n}`;
    byId("settings-told", HTMLElement).textContent = [size, `seed ${state.seed}`, `top-p ${state.topP}`, state.reduction, state.model]
      .filter(Boolean)
      .join(" · ");
  }
}
