// The page: draws candidates once, and chooses among them anew whenever a strength moves.

import { CARDS, markCard, showAnswer, showGuidance, showPrice } from "./cards.js";
import { copies } from "./copying.js";
import { byId } from "./dom.js";
import { Drawer } from "./drawer.js";
import { Form } from "./form.js";
import { clearInfluence, sayInfluence, showInfluence } from "./influence.js";
import { busy, fail, progress, say } from "./notices.js";
import { Plane } from "./plane.js";
import * as request from "./request.js";
import * as result from "./result.js";
import { asStrengths, lineOf, readCandidates, UNITS } from "./score.js";
import { answer, Failure, models, post } from "./server.js";
import { StrengthPanel } from "./strength.js";
import { focusToken, markToken } from "./tokens.js";
import { fullGain, viewOf, viewSoFar } from "./view.js";
import { plain, quoted } from "./words.js";

/**
 * @typedef {object} Known What is known of the last draw.
 * @property {string} key Of what decides the candidates.
 * @property {State} asked
 * @property {Map<number, import("./view.js").Arrived>} arrived
 * @property {import("./score.js").Reduction} reduction
 * @property {import("./rank.js").CutOff} cutOff
 * @property {any} record
 * @property {Candidate[] | null} candidates Of the record, once it is there.
 * @property {Record<Aside, Other>} others
 *
 * @typedef {object} Other An answer that stands beside the candidates.
 * @property {State} asked
 * @property {any} record
 * @property {Candidate | null} candidate
 * @property {string} why There is none.
 *
 * @typedef {"guided" | "alone"} Aside
 * @typedef {import("./request.js").State} State
 * @typedef {import("./request.js").Manner} Manner
 * @typedef {import("./score.js").Candidate} Candidate
 */

/** @type {Aside[]} */
const ASIDE = ["guided", "alone"];
const TITLES = { guided: "The guided answer", alone: "The model’s own answer" };
const PHRASES = { guided: "the guided answer", alone: "the model’s own answer" };
const CANNOT_GUIDE = "This engine cannot choose token by token. Open the model in the server’s own process for that.";
const CANNOT_TELL = "This engine does not tell its likeliest next tokens. Open the model in the server’s own process for that.";
/** Milliseconds that the slider must rest before something is asked for. */
const LATER = 250;

const element = (/** @type {string} */ id) => byId(id, HTMLElement);
const base = new URL(".", location.href).href;

/** @type {Known | null} */
let known = null;
let strengths = asStrengths([]);
/** @type {number | Aside | null} A candidate's slot, or another answer, that was picked; null follows the winner. */
let picked = null;
/** @type {number | null} */
let looked = null;
/** @type {AbortController | null} */
let drawing = null;
/** @type {AbortController | null} */
let asking = null;
let keyed = false;
/** @type {Map<string, {guides: boolean, alternatives: boolean}>} What the engine can do, by model. */
const abilities = new Map();

const form = new Form(changed);
const panel = new StrengthPanel({
  together: (lambda) => move({ ...strengths, lambda }),
  each: (index, strength) => move(asStrengths(allStrengths().map((old, i) => (i === index ? strength : old)))),
});
const plane = new Plane(byId("plane", SVGSVGElement), {
  look: (index) => {
    if (drawer.isOpen) return;
    looked = index;
    show({ why: true });
  },
  pick,
});
const drawer = new Drawer({
  fork: (choice) => fork(choice),
  closed: () => {
    asking?.abort();
    focusToken(element("tokens"), at);
    markToken(element("tokens"), -1);
  },
});
/** The place of the token whose alternatives were shown last. */
let at = -1;

function allStrengths() {
  return strengths.ratios.map((ratio) => Number((ratio * strengths.lambda).toPrecision(6)));
}

/** @param {import("./score.js").Strengths} to */
function move(to) {
  strengths = to;
  form.writeStrengths(allStrengths());
  remember();
  show({ why: true });
  if (drawer.isOpen) later(tellAlternatives);
}

/** @type {number | undefined} */
let waiting;

/** @param {() => void} work Done once the slider rests. */
function later(work) {
  clearTimeout(waiting);
  waiting = setTimeout(work, LATER);
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
 * Add up the records' log-probs by the reduction of the moment; other answers on the scale of the candidates.
 * @param {Known} about
 */
function weigh(about) {
  const now = (/** @type {any} */ record) => ({
    ...record,
    settings: { ...record.settings, reduction: about.reduction },
  });
  const { record } = about;
  about.candidates = record && readCandidates(now(record));
  for (const other of Object.values(about.others)) {
    other.candidate = other.record && record ? (readCandidates(now(other.record), now(record))[0] ?? null) : null;
  }
}

/** @param {number} index */
function pick(index) {
  const slot = current()?.candidates[index]?.slot ?? null;
  choose(slot === picked ? null : slot);
}

/** @param {number | Aside | null} to Whose tokens are shown. */
function choose(to) {
  drawer.close(false);
  picked = to;
  show({ why: true });
}

/** @type {number | undefined} */
let remembering;

/** The address tells the state, so that it can be shared and reloaded: a moment later, for browsers limit how often. */
function remember() {
  const state = form.read();
  element("curl").textContent = request.asCurl(state, state.model, base, keyed);
  element("python").textContent = request.asPython(state, state.model, base, keyed);
  clearTimeout(remembering);
  remembering = setTimeout(() => history.replaceState(null, "", link()), 300);
}

function link() {
  return `${base}#${request.toFragment(form.read())}`;
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
  const aside = looked === null ? asideShown() : null;
  const index = aside ? -1 : (looked ?? indexShown(view));
  panel.show(lambda, ratios.map((ratio) => ratio * lambda));
  panel.draw(view.path, view.winner, (i) => result.name(view.candidates[i]));
  element("plane-card").hidden = view.winner < 0;
  element("stale").hidden = known.key === request.drawKey(form.read());
  element("tree-note").hidden = known.asked.search !== "dvts";
  result.showChosen(view);
  result.showEffect(view, known.candidates?.[view.winner], ratios);
  const { guided, alone } = known.others;
  const lines = {
    guided: guided.candidate && lineOf(guided.candidate, ratios),
    alone: alone.candidate && lineOf(alone.candidate, ratios),
  };
  plane.draw({ ...view, shown: index, unit, aside: lines });
  result.showTable(view, index, pick);
  const line = aside ? lines[aside] : view.lines[index];
  result.showScore(titleOf(view, index, aside), shownOf(view, index, aside), line, lambda, unit);
  const chosen = known.candidates ? view.lines[view.winner] : null;
  showCards(known, { chosen, ...lines }, lambda, aside ?? (index === view.winner ? "chosen" : null));
  if (!why) return;
  const candidate = aside ? known.others[aside].candidate : known.candidates?.[index];
  const text = candidate?.text ?? view.candidates[index]?.text ?? "";
  const slot = view.candidates[index]?.slot;
  const state = [known.key, aside, slot, ratios.join(), candidate?.tokens.join() ?? text].join(" ");
  if (state === lastWhy) return;
  if (!drawer.isOpen) asking?.abort();
  lastWhy = state;
  const full = fullGain(known.candidates ?? [], ratios);
  result.showWhy(candidate, text, ratios, full, openDrawer);
  result.showScale(full);
  clearInfluence(Boolean(candidate?.text.trim()));
  if (drawer.isOpen) markToken(element("tokens"), at);
}

/**
 * The candidate that was picked, or the winner.
 * @param {import("./view.js").View} view
 */
function indexShown(view) {
  const index = view.candidates.findIndex((candidate) => candidate.slot === picked);
  return index < 0 ? view.winner : index;
}

/** The answer beside the candidates whose tokens are shown, if it is one and there. */
function asideShown() {
  const aside = picked === "guided" || picked === "alone" ? picked : null;
  return aside && known?.others[aside].candidate ? aside : null;
}

/**
 * @param {import("./view.js").View} view
 * @param {number} index
 * @param {Aside | null} aside
 */
function titleOf(view, index, aside) {
  if (aside) return TITLES[aside];
  return `Candidate ${result.name(view.candidates[index])}${index === view.winner ? ", the chosen one" : ""}`;
}

/**
 * @param {import("./view.js").View} view
 * @param {number} index
 * @param {Aside | null} aside
 */
function shownOf(view, index, aside) {
  return aside ? known?.others[aside].candidate : view.candidates[index];
}

/**
 * @param {Known} about
 * @param {Record<import("./cards.js").Card, import("./score.js").Line | null | undefined>} lines
 * @param {number} lambda
 * @param {import("./cards.js").Card | null} shown
 */
function showCards(about, lines, lambda, shown) {
  const { record, others } = about;
  byId("chosen-show", HTMLButtonElement).disabled = !record;
  showPrice("chosen", lines.chosen, lambda, record ? result.costOf(record) : "");
  for (const aside of ASIDE) {
    const other = others[aside];
    showAnswer(aside, other.record?.text ?? "", other.candidate !== null);
    showPrice(aside, lines[aside], lambda, other.record ? result.costOf(other.record) : "");
  }
  const { asked, record: guided, why } = others.guided;
  const strengths = (/** @type {State} */ state) => state.preferences.map(({ strength }) => strength).join();
  const again = guided !== null && strengths(asked) !== strengths(withStrengths(about.asked));
  showGuidance({ drawn: guided ? guided.settings.lambda : null, now: lambda, again, why });
  markCard(shown);
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
    await Promise.all([
      drawCandidates(now, mine.signal),
      drawAside(now, "guided", asked, mine.signal),
      drawAside(now, "alone", asked, mine.signal),
    ]);
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
  const nobody = { asked, record: null, candidate: null, why: "" };
  const why = abilities.get(asked.model)?.guides === false ? CANNOT_GUIDE : "";
  const others = { guided: { ...nobody, why }, alone: nobody };
  const nothing = { record: null, candidates: null, others };
  const now = { key: request.drawKey(asked), asked, ...weighing(asked), arrived: new Map(), ...nothing };
  comeBack(now);
  return now;
}

/** @param {Known | null} to What is on show from now on. */
function comeBack(to) {
  drawer.close(false);
  [picked, looked, known] = [null, null, to];
  panel.offer(to?.asked.preferences.map((one) => one.text) ?? []);
  result.showCost(to?.record);
}

/**
 * @param {Known} about
 * @param {AbortSignal} signal
 */
async function drawCandidates(about, signal) {
  const record = await answer(request.toBody(about.asked, about.asked.model), form.key, signal, (told) => {
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
 * @param {Aside} aside
 * @param {State} asked
 * @param {AbortSignal} signal
 */
async function drawAside(about, aside, asked, signal) {
  const other = about.others[aside];
  if (other.why) return;
  other.record = await answer(request.toSingleBody(asked, aside), form.key, signal, () => {});
  other.asked = asked;
  weigh(about);
  if (about === known) show({ why: picked === aside });
}

/** Draw the guided answer again, at the strengths of the moment. */
async function guideAgain() {
  if (!known) return;
  const about = known;
  byId("guided-again", HTMLButtonElement).disabled = true;
  if (picked === "guided") drawer.close(false);
  say("Guiding …");
  try {
    await drawAside(about, "guided", withStrengths(about.asked), new AbortController().signal);
    say(`Guided at λ = ${plain(about.others.guided.record.settings.lambda)}.`);
  } catch (failure) {
    explain(failure);
  } finally {
    byId("guided-again", HTMLButtonElement).disabled = false;
    element("guided-show").focus({ preventScroll: true });
  }
}

/** A new question about the answers on show, which ends the one before. */
function asks() {
  asking?.abort();
  asking = new AbortController();
  return asking;
}

/**
 * A state with the strengths of the moment.
 * @param {State} state
 * @returns {State}
 */
function withStrengths(state) {
  const { lambda, ratios } = used();
  const strength = (/** @type {number} */ i) => Number(((ratios[i] ?? 1) * lambda).toPrecision(6));
  return { ...state, preferences: state.preferences.map(({ text }, i) => ({ text, strength: strength(i) })) };
}

// --- a token's alternatives, and forks ----------------------------------------------

/** The answer whose tokens are shown, how it was drawn and what it is called. */
function shownAnswer() {
  const view = current();
  if (!known?.candidates || !view) return null;
  const aside = asideShown();
  const candidate = aside ? known.others[aside].candidate : known.candidates[indexShown(view)];
  if (!candidate) return null;
  /** @type {Manner} */
  const manner = aside ?? candidate.fork?.manner ?? "sampled";
  return { candidate, manner, title: aside ? PHRASES[aside] : `candidate ${result.name(candidate)}` };
}

/** @param {number} place Of a token of the answer on show. */
function openDrawer(place) {
  looked = null;
  const shown = shownAnswer();
  if (!shown) return;
  at = place;
  const { candidate, title } = shown;
  picked ??= candidate.slot;
  const token = candidate.tokens[candidate.thoughts + place] ?? -1;
  drawer.open({ answer: title, at: place, token, piece: candidate.pieces[place] ?? "" });
  markToken(element("tokens"), place);
  show({ why: true });
  tellAlternatives();
}

async function tellAlternatives() {
  const shown = shownAnswer();
  const token = drawer.place?.token;
  if (!known || !shown || token === undefined) return;
  if (abilities.get(known.asked.model)?.alternatives === false) return drawer.say(CANNOT_TELL);
  const state = withStrengths(known.asked);
  const mine = asks();
  try {
    const prefix = before(shown.candidate, at);
    const body = request.toAlternativesBody(state, prefix, token);
    const told = await post("v1/preftilt/alternatives", body, form.key, mine.signal);
    drawer.tell(told.tokens, used().lambda);
  } catch (failure) {
    quietly(failure, (words) => drawer.say(words));
  }
}

/**
 * The tokens before a place of the answer, its thoughts among them.
 * @param {Candidate} candidate
 * @param {number} place
 */
function before({ tokens, thoughts }, place) {
  return tokens.slice(0, thoughts + place);
}

/**
 * Go on from another token; the answer becomes a candidate.
 * @param {import("./drawer.js").Alternative} choice
 */
async function fork(choice) {
  const shown = shownAnswer();
  if (!known || !shown) return;
  const about = known;
  const { candidate, manner, title } = shown;
  /** @type {import("./score.js").RecordCandidate[]} */
  const all = about.record.candidates;
  const forks = all.filter((other) => other.fork).length;
  const asked = manner === "guided" ? about.others.guided.asked : about.asked;
  const prefix = [...before(candidate, at), choice.token];
  const body = request.toSingleBody({ ...asked, seed: asked.seed + 1 + forks }, manner, prefix);
  const mine = asks();
  drawer.say(`Going on from ${quoted(choice.text)} …`);
  try {
    const record = await answer(body, form.key, mine.signal, () => {});
    const slot = 1 + Math.max(...all.map((other) => other.slot));
    all.push({ ...record.candidates[0], slot, fork: { from: title, at, manner, cost: result.costOf(record) } });
    about.record.pieces.push(record.pieces[0]);
    weigh(about);
    if (about !== known) return;
    const key = record.candidates[0].tokens.join();
    const made = about.candidates?.find((other) => other.tokens.join() === key);
    choose(made?.slot ?? null);
    focusToken(element("tokens"), at);
    say(`Candidate ${result.name(made)}: ${title} from ${quoted(choice.text)} on.`);
  } catch (failure) {
    quietly(failure, (words) => drawer.say(words));
  }
}

/** Which sentences carry the answer on show. */
async function askInfluence() {
  const shown = shownAnswer();
  if (!known || !shown) return;
  const mine = asks();
  const key = lastWhy;
  sayInfluence("Leaving out one sentence at a time …");
  try {
    const body = request.toInfluenceBody(known.asked, shown.candidate.text);
    const told = await post("v1/preftilt/influence", body, form.key, mine.signal);
    if (key === lastWhy) showInfluence(told);
  } catch (failure) {
    quietly(failure, sayInfluence);
  }
}

/**
 * Tell of a failure where it was asked; one that was taken back is none.
 * @param {unknown} failure
 * @param {(words: string) => void} tell
 */
function quietly(failure, tell) {
  if (failure instanceof DOMException && failure.name === "AbortError") return;
  if (!(failure instanceof Failure)) throw failure;
  tell(failure.message);
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
    const offered = await models(form.key);
    for (const { id, preftilt } of offered) abilities.set(id, preftilt);
    form.offerModels(offered.map(({ id }) => id));
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
element("guided-again").addEventListener("click", guideAgain);
element("carries-ask").addEventListener("click", askInfluence);
for (const card of CARDS) {
  element(`${card}-show`).addEventListener("click", () => {
    choose(card === "chosen" ? null : card);
    element("why-title").focus();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && drawer.isOpen) drawer.close();
});
element("numbers").addEventListener("change", (event) => {
  element("tokens").classList.toggle("with-numbers", /** @type {HTMLInputElement} */ (event.target).checked);
});
byId("key", HTMLInputElement).addEventListener("change", loadModels);
window.addEventListener("hashchange", () => {
  form.write(request.fromFragment(location.hash) ?? request.EXAMPLE);
  changed();
});

form.write(request.fromFragment(location.hash) ?? request.EXAMPLE);
strengths = asStrengths(form.read().preferences.map((one) => one.strength));
await loadModels();
