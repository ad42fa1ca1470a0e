// Talking to the server: the events of a stream, and what went wrong in words.

const BROKEN = "The connection ended before the answer did. Try again.";

/** A failure with a sentence for people. `status` is 0 if there was no answer at all. */
export class Failure extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/**
 * What a stream says, chunk by chunk, up to its end.
 * @param {object} body
 * @param {string} key "" for none.
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 */
async function* stream(body, key, signal) {
  const reply = await send("v1/chat/completions", key, {
    method: "POST",
    body: JSON.stringify({ ...body, stream: true }),
    signal,
  });
  let ended = false;
  if (reply.body) {
    for await (const event of events(texts(reply.body))) {
      if (event === "[DONE]") {
        ended = true;
        break;
      }
      const said = JSON.parse(event);
      if (said.error) throw new Failure(reply.status, said.error.message);
      yield said;
    }
  }
  if (!ended) throw new Failure(0, BROKEN);
}

/**
 * A stream to its end; the record that it ends with.
 * @param {object & {preftilt: object}} body
 * @param {string} key
 * @param {AbortSignal} signal
 * @param {(told: any) => void} tell
 */
export async function answer(body, key, signal, tell) {
  const asked = { ...body, preftilt: { ...body.preftilt, pieces: true } };
  let record = null;
  for await (const chunk of stream(asked, key, signal)) {
    record = chunk.preftilt ?? record;
    for (const choice of chunk.choices) if (choice.delta?.preftilt) tell(choice.delta.preftilt);
  }
  if (!record) throw new Failure(0, "The server sent no record. Is it another version than this page?");
  return record;
}

/**
 * What the server answers to a request that does not stream.
 * @param {string} path
 * @param {object} body
 * @param {string} key
 * @param {AbortSignal} signal
 * @returns {Promise<any>}
 */
export async function post(path, body, key, signal) {
  const reply = await send(path, key, { method: "POST", body: JSON.stringify(body), signal });
  return reply.json();
}

/**
 * @typedef {object} Model One that the server offers.
 * @property {string} id
 * @property {{guides: boolean, alternatives: boolean}} preftilt What its engine can do.
 *
 * @param {string} key
 * @returns {Promise<Model[]>}
 */
export async function models(key) {
  const reply = await send("v1/models", key, {});
  return (await reply.json()).data;
}

/**
 * @param {string} path
 * @param {string} key
 * @param {RequestInit} request
 */
async function send(path, key, request) {
  /** @type {Record<string, string>} */
  const headers = { "Content-Type": "application/json" };
  if (key) headers["Authorization"] = `Bearer ${key}`;
  /** @type {Response} */
  let reply;
  try {
    reply = await fetch(path, { ...request, headers });
  } catch (failure) {
    if (failure instanceof DOMException && failure.name === "AbortError") throw failure;
    throw new Failure(0, "The server does not answer. Is it still running?");
  }
  if (reply.ok) return reply;
  throw new Failure(reply.status, await complaint(reply));
}

/** @param {Response} reply */
async function complaint(reply) {
  const wait = reply.headers.get("Retry-After");
  const later = wait ? ` Try again in ${wait} s.` : "";
  try {
    const { message } = (await reply.json()).error;
    return `${message.charAt(0).toUpperCase()}${message.slice(1)}.${later}`;
  } catch {
    return `Something answered with status ${reply.status}, and it was not preftilt.${later}`;
  }
}

/**
 * @param {ReadableStream<Uint8Array>} body
 * @returns {AsyncGenerator<string>}
 */
async function* texts(body) {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      yield decoder.decode(value, { stream: true });
    }
  } catch (failure) {
    if (failure instanceof TypeError) throw new Failure(0, BROKEN);
    throw failure;
  } finally {
    await reader.cancel().catch(() => {}); // It may be broken already.
  }
}

/**
 * The data of server-sent events; comments are passed over. Events may be cut anywhere between two pieces.
 * @param {AsyncIterable<string>} pieces
 * @returns {AsyncGenerator<string>}
 */
export async function* events(pieces) {
  let rest = "";
  for await (const piece of pieces) {
    const whole = (rest + piece).split("\n\n");
    rest = whole.pop() ?? "";
    for (const event of whole) {
      const data = event.split("\n").filter((line) => line.startsWith("data:"));
      if (data.length) yield data.map((line) => line.slice(5).trimStart()).join("\n");
    }
  }
}
