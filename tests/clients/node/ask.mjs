// Asks the server at argv[2] with OpenAI's official client for Node.js; argv[3] is the body, whose own fields it passes
// on as they are. Prints what came back as one JSON object.
import OpenAI from "openai";

const [url, body] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });

try {
  const models = [];
  for await (const one of client.models.list()) models.push(one.id);
  const answer = await client.chat.completions.create(JSON.parse(body));
  const chunks = [];
  if (JSON.parse(body).stream) for await (const chunk of answer) chunks.push(chunk);
  console.log(JSON.stringify({ models, answer: chunks.length ? null : answer, chunks }));
} catch (failure) {
  const { status, code, param, message } = failure;
  console.log(JSON.stringify({ failure: { name: failure.constructor.name, status, code, param, message } }));
}
