// The page: draws candidates once, and chooses among them anew whenever a strength moves.

import { copies } from "./copying.js";
import { byId } from "./dom.js";
import { Form } from "./form.js";
import { busy, fail, progress, say } from "./notices.js";
import { Plane } from "./plane.js";
import { asCurl, asPython, drawKey, EXAMPLE, fromFragment, toBody, toFragment, toPlainBody } from "./request.js";
import * as result from "./result.js";
import { asStrengths, lineOf, readCandidates, UNITS } from "./score.js";
import { answer, Failure, modelNames } from "./server.js";
import { StrengthPanel } from "./strength.js";
import { fullGain, viewOf, viewSoFar } from "./view.js";

/**
 * @typedef {object} Known What is known of the last draw.
 * @property {string} key Of what decides the candidates.
 * @property {import("./request.js").State} asked
 * @property {Map<number, import("./view.js").Arrived>} arrived
 * @property {import("./score.js").Reduction} reduction
 * @property {import("./rank.js").CutOff} cutOff
 * @property {any} record
 * @property {import("./score.js").Candidate[] | null} candidates Of the record, once it is there.
 * @property {any} aloneRecord
 * @property {import("./score.js").Candidate | null} alone
 */

const element = (/** @type {string} */ id) => byId(id, HTMLElement);
const base = new URL(".", location.href).href;

/** @type {Known | null} */
let known = null;
let strengths = asStrengths([]);
/** @type {number | null} A candidate's slot that was picked; null follows the winner. */
let picked = null;
/** @type {number | null} */
let looked = null;
/** @type {AbortController | null} */
let drawing = null;
let keyed = false;

const form = new Form(changed);
const panel = new StrengthPanel({
  together: (lambda) => move({ ...strengths, lambda }),
  each: (index, strength) => move(asStrengths(allStrengths().map((old, i) => (i === index ? strength : old)))),
});
const plane = new Plane(byId("plane", SVGSVGElement), {
  look: (index) => {
    looked = index;
    show({ why: true });
  },
  pick,
});

function allStrengths() {
  return strengths.ratios.map((ratio) => Number((ratio * strengths.lambda).toPrecision(6)));
}

/** @param {import("./score.js").Strengths} to */
function move(to) {
  strengths = to;
  form.writeStrengths(allStrengths());
  remember();
  show({ why: true });
}

/** The form was changed by hand. */
function changed() {
  const state = form.read();
  strengths = asStrengths(state.preferences.map((one) => one.strength));
  if (known && known.asked.search !== "dvts") Object.assign(known, weighing(state));
  if (known) weigh(known);
  remember();
  show({ why: true });
}

/**
 * How the form's state makes and compares scores; its fields always have a value.
 * @param {import("./request.js").State} state
 */
function weighing({ reduction, cutOff }) {
  if (!reduction || !cutOff) throw new Error("the form has lost a field");
  return { reduction, cutOff };
}

/**
 * Add up the records' log-probs by the reduction of the moment; the model's own answer on the scale of the others.
 * @param {Known} about
 */
function weigh(about) {
  const now = (/** @type {any} */ record) => ({
    ...record,
    settings: { ...record.settings, reduction: about.reduction },
  });
  const { record, aloneRecord } = about;
  about.candidates = record && readCandidates(now(record));
  about.alone = aloneRecord && record ? (readCandidates(now(aloneRecord), now(record))[0] ?? null) : null;
}

/** @param {number} index */
function pick(index) {
  const slot = current()?.candidates[index]?.slot ?? null;
  picked = slot === picked ? null : slot;
  show({ why: true });
}

/** @type {number | undefined} */
let remembering;

/** The address tells the state, so that it can be shared and reloaded: a moment later, for browsers limit how often. */
function remember() {
  const state = form.read();
  element("curl").textContent = asCurl(state, state.model, base, keyed);
  element("python").textContent = asPython(state, state.model, base, keyed);
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", link()), 300);
}

function link() {
  return `${base}#${toFragment(form.read())}`;
}

/** @returns {import("./view.js").View | null} */
function current() {
  if (!known) return null;
  if (!known.candidates) return viewSoFar(known.arrived.values(), asked().lambda, known.cutOff);
  return viewOf(known.candidates, used(), known.cutOff);
}

function asked() {
  return asStrengths(known?.asked.preferences.map((one) => one.strength) ?? []);
}

/** The strengths in use: the moment's, if they are those of the preferences that were drawn with. */
function used() {
  return strengths.ratios.length === known?.asked.preferences.length ? strengths : asked();
}

let lastWhy = "";

/** @param {{why: boolean}} what Whether a candidate's tokens may have changed, too. */
function show({ why }) {
  const view = current();
  element("empty").hidden = view !== null;
  element("found").hidden = view === null;
  if (!known || !view) return;
  const { ratios, lambda } = known.candidates ? used() : asked();
  const unit = UNITS[known.reduction];
  const shown = looked ?? (picked === null ? -1 : view.candidates.findIndex((one) => one.slot === picked));
  const index = shown < 0 ? view.winner : shown;
  panel.show(lambda, ratios.map((ratio) => ratio * lambda));
  panel.draw(view.path, view.winner, (i) => result.name(view.candidates[i]));
  element("plane-card").hidden = view.winner < 0;
  element("stale").hidden = known.key === drawKey(form.read());
  element("tree-note").hidden = known.asked.search !== "dvts";
  result.showChosen(view);
  result.showEffect(view, known.candidates?.[view.winner], ratios);
  plane.draw({ ...view, shown: index, unit, alone: known.alone ? lineOf(known.alone, ratios) : null });
  result.showTable(view, index, pick);
  result.showScore(view, index, unit);
  if (!why) return;
  const one = known.candidates?.[index];
  const state = `${known.key} ${index} ${ratios.join()} ${one?.text ?? view.candidates[index]?.text}`;
  if (state === lastWhy) return;
  lastWhy = state;
  const full = fullGain(known.candidates ?? [], ratios);
  result.showWhy(one, view.candidates[index]?.text ?? "", ratios, full);
  result.showScale(full);
}

// --- drawing ------------------------------------------------------------------------

async function draw() {
  const problem = form.problem();
  fail(problem?.sentence ?? "");
  if (problem) {
    problem.field.closest("details")?.setAttribute("open", "");
    return problem.field.focus();
  }
  const asked = form.read();
  drawing?.abort();
  const mine = new AbortController();
  drawing = mine;
  busy(true);
  say("Waiting for the model …");
  const before = known;
  const now = begin(asked);
  try {
    await Promise.all([drawCandidates(now, mine.signal), drawAlone(now, mine.signal)]);
  } catch (failure) {
    if (drawing !== mine) return;
    mine.abort();
    if (!now.arrived.size && !now.record) comeBack(before);
    explain(failure);
  } finally {
    if (drawing === mine) busy(false);
  }
}

/**
 * @param {import("./request.js").State} asked
 * @returns {Known}
 */
function begin(asked) {
  const nothing = { record: null, candidates: null, aloneRecord: null, alone: null };
  const now = { key: drawKey(asked), asked, ...weighing(asked), arrived: new Map(), ...nothing };
  comeBack(now);
  return now;
}

/** @param {Known | null} to What is on show from now on. */
function comeBack(to) {
  [picked, looked, known] = [null, null, to];
  panel.offer(to?.asked.preferences.map((one) => one.text) ?? []);
  element("alone").textContent = to?.aloneRecord?.text ?? "";
  result.showCost(to?.record);
}

/**
 * @param {Known} about
 * @param {AbortSignal} signal
 */
async function drawCandidates(about, signal) {
  const record = await answer(toBody(about.asked, about.asked.model), form.key, signal, (told) => {
    for (const one of told.candidates ?? []) about.arrived.set(one.slot, one);
    progress(about.asked, about.arrived, told);
    if (told.candidates && about === known) show({ why: true });
  });
  about.record = record;
  weigh(about);
  if (about !== known) return;
  result.showCost(record);
  say(`Done: ${record.candidates.length} answers, ${about.candidates?.length} of them distinct.`);
  show({ why: true });
}

/**
 * @param {Known} about
 * @param {AbortSignal} signal
 */
async function drawAlone(about, signal) {
  const record = await answer(toPlainBody(about.asked, about.asked.model), form.key, signal, () => {});
  about.aloneRecord = record;
  weigh(about);
  if (about !== known) return;
  element("alone").textContent = record.text;
  show({ why: false });
}

/** @param {unknown} failure */
function explain(failure) {
  if (failure instanceof DOMException && failure.name === "AbortError") return say("Stopped.");
  say("");
  if (!(failure instanceof Failure)) throw failure;
  fail(failure.message);
  show({ why: true });
  if (failure.status === 401) needKey();
}

function needKey() {
  keyed = true;
  form.askForKey();
  remember();
}

// --- start --------------------------------------------------------------------------

copies("copy-link", link, "Link copied.");
copies("copy-curl", () => element("curl").textContent, "curl command copied.");
copies("copy-python", () => element("python").textContent, "Python code copied.");

async function loadModels() {
  try {
    form.offerModels(await modelNames(form.key));
    fail("");
  } catch (failure) {
    if (!(failure instanceof Failure)) throw failure;
    if (failure.status === 401) needKey();
    fail(failure.status === 401 && !form.key ? "This server asks for a key." : failure.message);
  }
  remember();
}

byId("ask", HTMLFormElement).addEventListener("submit", async (event) => {
  event.preventDefault();
  if (!form.read().model) await loadModels();
  if (form.read().model) await draw();
});
element("stop").addEventListener("click", () => drawing?.abort());
element("numbers").addEventListener("change", (event) => {
  element("tokens").classList.toggle("with-numbers", /** @type {HTMLInputElement} */ (event.target).checked);
});
byId("key", HTMLInputElement).addEventListener("change", loadModels);
window.addEventListener("hashchange", () => {
  form.write(fromFragment(location.hash) ?? EXAMPLE);
  changed();
});

form.write(fromFragment(location.hash) ?? EXAMPLE);
strengths = asStrengths(form.read().preferences.map((one) => one.strength));
await loadModels();
