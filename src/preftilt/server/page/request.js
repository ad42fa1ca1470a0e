// What the page asks for: as the form's state, as a link, as a request's body, and as code to copy.

/**
 * @typedef {object} State
 * @property {string} model "" is the server's first.
 * @property {string} question
 * @property {import("./score.js").Preference[]} preferences
 * @property {"best-of-n" | "dvts"} search
 * @property {number} n Candidates of best-of-n.
 * @property {number} subtrees Of dvts.
 * @property {number} width Of dvts.
 * @property {number} seed
 * @property {number} topP The nucleus that answers are drawn from: above 0, 1 is the whole vocabulary.
 * @property {number | null} maxTokens null leaves it to the server.
 * @property {import("./score.js").Reduction | null} reduction null is the server's.
 * @property {import("./rank.js").CutOff | null} cutOff null is the server's.
 */

/** @type {State} The paper's own example, drawn as `make demo` draws it. */
export const EXAMPLE = {
  model: "",
  question: "What are some enjoyable ways to study maths?",
  preferences: [{ text: "I dislike gamification.", strength: 3 }],
  search: "best-of-n",
  n: 16,
  subtrees: 4,
  width: 4,
  seed: 1,
  topP: 0.9,
  maxTokens: null,
  reduction: null,
  cutOff: null,
};

/** @type {import("./score.js").Reduction[]} */
const REDUCTIONS = ["sum", "mean", "centred"];
/** @type {import("./rank.js").CutOff[]} */
const CUT_OFF = ["last", "as-is"];

/** @param {string | null} text */
export function asReduction(text) {
  return REDUCTIONS.find((one) => one === text) ?? null;
}

/** @param {string | null} text */
export function asCutOff(text) {
  return CUT_OFF.find((one) => one === text) ?? null;
}

export const MOST_PREFERENCES = 16;

/**
 * The state as a URL's fragment, without "#". It never holds a key.
 * @param {State} state
 */
export function toFragment(state) {
  const said = new URLSearchParams({ question: state.question });
  for (const one of state.preferences) {
    said.append("preference", one.text);
    said.append("lambda", String(one.strength));
  }
  said.set("search", state.search);
  for (const name of sizes(state)) said.set(name, String(state[name]));
  said.set("seed", String(state.seed));
  said.set("top_p", String(state.topP));
  if (state.reduction) said.set("reduction", state.reduction);
  if (state.cutOff) said.set("cut_off", state.cutOff);
  if (state.maxTokens !== null) said.set("max_tokens", String(state.maxTokens));
  if (state.model) said.set("model", state.model);
  return said.toString();
}

/**
 * The state that a fragment tells; what it does not tell, or what makes no sense, is the example's. null without a
 * question.
 * @param {string} fragment
 * @returns {State | null}
 */
export function fromFragment(fragment) {
  const said = new URLSearchParams(fragment.replace(/^#/, ""));
  const question = said.get("question");
  if (question === null) return null;
  const strengths = said.getAll("lambda");
  const preferences = said
    .getAll("preference")
    .slice(0, MOST_PREFERENCES)
    .map((text, i) => ({ text, strength: number(strengths[i]) ?? 3 }));
  return {
    model: said.get("model") ?? "",
    question,
    preferences: preferences.length ? preferences : [{ text: "", strength: 3 }],
    search: said.get("search") === "dvts" ? "dvts" : "best-of-n",
    n: whole(said.get("n"), 1) ?? EXAMPLE.n,
    subtrees: whole(said.get("subtrees"), 1) ?? EXAMPLE.subtrees,
    width: whole(said.get("width"), 1) ?? EXAMPLE.width,
    seed: whole(said.get("seed"), 0) ?? EXAMPLE.seed,
    topP: share(said.get("top_p")) ?? EXAMPLE.topP,
    maxTokens: whole(said.get("max_tokens"), 1),
    reduction: asReduction(said.get("reduction")),
    cutOff: asCutOff(said.get("cut_off")),
  };
}

/**
 * A number, or null if it is none.
 * @param {string | null | undefined} text
 * @returns {number | null}
 */
export function number(text) {
  const value = text?.trim() ? Number(text) : NaN;
  return Number.isFinite(value) ? value : null;
}

/**
 * A whole number of at least `least`, or null.
 * @param {string | null | undefined} text
 * @param {number} least
 */
export function whole(text, least) {
  const value = number(text);
  return value !== null && Number.isSafeInteger(value) && value >= least ? value : null;
}

/**
 * A number above 0 and at most 1, or null.
 * @param {string | null | undefined} text
 */
export function share(text) {
  const value = number(text);
  return value !== null && value > 0 && value <= 1 ? value : null;
}

/**
 * The body of a chat completion, without what only the page wants.
 * @param {State} state
 * @param {string} model
 */
export function toBody(state, model) {
  const wishes = state.preferences.map((one) => ({ text: one.text, lambda: one.strength }));
  const [first] = state.preferences;
  const said =
    wishes.length === 1 && first
      ? { preference: first.text, lambda: first.strength }
      : { preferences: wishes };
  const search = Object.fromEntries(sizes(state).map((name) => [name, state[name]]));
  return {
    model,
    messages: [{ role: "user", content: state.question }],
    seed: state.seed,
    top_p: state.topP,
    ...(state.maxTokens === null ? {} : { max_tokens: state.maxTokens }),
    preftilt: { ...said, search: { name: state.search, ...search }, ...weighing(state) },
  };
}

/**
 * How scores are made and compared, where the state says it.
 * @param {State} state
 */
function weighing({ reduction, cutOff }) {
  return { ...(reduction && { reduction }), ...(cutOff && { cut_off: cutOff }) };
}

/**
 * How an answer is drawn. `sampled`: by itself, as the candidates are. `guided`: the likeliest token under both prompts
 * at λ. `alone`: the model's likeliest token, the preferences in its prompt; that is λ = 1.
 * @typedef {"sampled" | "guided" | "alone"} Manner
 */

const SEARCHES = {
  sampled: { search: { name: "sample" } },
  guided: { search: { name: "cfg", greedy: true } },
  alone: { search: { name: "greedy" }, generate_with: "full" },
};

/**
 * The same request for one answer, which may begin with given tokens; greedy drawing knows no nucleus.
 * @param {State} state
 * @param {Manner} manner
 * @param {number[]} prefix
 */
export function toSingleBody(state, manner, prefix = []) {
  const body = toBody(state, state.model);
  return {
    ...body,
    top_p: manner === "sampled" ? body.top_p : undefined,
    preftilt: { ...body.preftilt, ...SEARCHES[manner], ...(prefix.length ? { prefix } : {}) },
  };
}

/**
 * The likeliest tokens at a place of an answer, those under the mixture at the state's λ among them.
 * @param {State} state
 * @param {number[]} prefix The answer's tokens before the place.
 * @param {number} token The one that stands there.
 */
export function toAlternativesBody(state, prefix, token) {
  return { ...toSingleBody(state, "sampled", prefix), count: 5, token };
}

/**
 * What every sentence of the preferences does for an answer.
 * @param {State} state
 * @param {string} response
 */
export function toInfluenceBody(state, response) {
  return { ...toSingleBody(state, "sampled"), response };
}

/**
 * All that decides which candidates are drawn. The strengths do not, and how scores are compared only in a tree:
 * they choose among them.
 * @param {State} state
 */
export function drawKey(state) {
  const texts = state.preferences.map((one) => one.text);
  const drawn = state.search === "dvts" ? state : { ...state, reduction: null, cutOff: null };
  return JSON.stringify({ ...toBody({ ...drawn, preferences: [] }, state.model), texts });
}

/**
 * @param {State} state
 * @returns {("n" | "subtrees" | "width")[]}
 */
function sizes(state) {
  return state.search === "dvts" ? ["subtrees", "width"] : ["n"];
}

// --- code to copy -------------------------------------------------------------------

/**
 * @param {State} state
 * @param {string} model
 * @param {string} base The server's address, ending in "/".
 * @param {boolean} keyed Whether the server wants a key, which comes from the environment.
 */
export function asCurl(state, model, base, keyed) {
  const body = JSON.stringify(toBody(state, model), null, 2).replaceAll("'", "'\\''");
  return [
    `curl -s '${base}v1/chat/completions' \\`,
    ...(keyed ? ['  -H "Authorization: Bearer $PREFTILT_KEY" \\'] : []),
    "  -H 'Content-Type: application/json' \\",
    `  -d '${body}'`,
  ].join("\n");
}

/**
 * @param {State} state
 * @param {string} model
 * @param {string} base
 * @param {boolean} keyed
 */
export function asPython(state, model, base, keyed) {
  const { preftilt, ...fields } = toBody(state, model);
  return [
    ...(keyed ? ["import os", ""] : []),
    "from openai import OpenAI",
    "",
    "client = OpenAI(",
    `    base_url=${JSON.stringify(`${base}v1`)},`,
    `    api_key=${keyed ? 'os.environ["PREFTILT_KEY"]' : '"none"'},`,
    ")",
    "reply = client.chat.completions.create(",
    ...Object.entries(fields).map(([name, value]) => `    ${name}=${literal(value)},`),
    `    extra_body={"preftilt": ${literal(preftilt)}},`,
    ")",
    "print(reply.choices[0].message.content)",
  ].join("\n");
}

/**
 * A JSON value without booleans and nulls, as Python writes it: its strings and numbers are the same.
 * @param {unknown} value
 */
function literal(value) {
  return JSON.stringify(value, null, 4).replaceAll("\n", "\n    ");
}
