// OpenAI's SDK for Node. Says what it saw as one JSON object, in the words of ../programs/report.py.
import { readFileSync } from "node:fs";
import OpenAI from "openai";

const { CLIENT_URL: url, CLIENT_MODEL: model, CLIENT_QUESTION: question } = process.env;
const refused = JSON.parse(process.env.CLIENT_REFUSED ?? "{}");
const keys = Object.entries(JSON.parse(process.env.CLIENT_KEYS));
const version = JSON.parse(readFileSync(new URL("node_modules/openai/package.json", import.meta.url))).version;

const toolQuestion = "Please use a tool: what is the weather?";
const parameters = {
  type: "object",
  properties: { city: { type: "string" }, days: { type: "integer" } },
  required: ["city", "days"],
};
const tools = [{ type: "function", function: { name: "weather", parameters } }];
const picture =
  "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR4nGNg+M/A8B8ABQECf35tKwoAAAAASUVORK5CYII=";
const told = ["x-request-id", "x-cost-sats", "x-balance-sats", "x-credit-balance", "x-ratelimit-remaining"];

const asking = (content) => [{ role: "user", content }];
const headersOf = (response) =>
  Object.fromEntries(told.filter((name) => response.headers.has(name)).map((name) => [name, response.headers.get(name)]));

async function all(pages) {
  const ids = [];
  for await (const one of pages) ids.push(one.id);
  return ids;
}

async function buffered(client) {
  const { data, response, request_id } = await client.chat.completions
    .create({ model, messages: asking(question) })
    .withResponse();
  const [{ message, finish_reason }] = data.choices;
  return { text: message.content, finish: finish_reason, usage: data.usage, headers: headersOf(response), request_id };
}

async function streamed(client, options = {}) {
  const { data, response } = await client.chat.completions
    .create({ model, messages: asking(question), stream: true, ...options })
    .withResponse();
  const chunks = [];
  for await (const chunk of data) chunks.push(chunk);
  const usages = chunks.flatMap((chunk) => chunk.usage ?? []);
  return {
    text: chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join(""),
    usage: usages.at(-1) ?? null,
    usages: usages.length,
    chunks_without_choices: chunks.filter((chunk) => chunk.choices.length === 0).length,
    headers: headersOf(response),
  };
}

function called(completion) {
  const call = completion.choices[0].message.tool_calls[0].function;
  return { name: call.name, arguments: JSON.parse(call.arguments) };
}

async function jsonObject(client) {
  const answer = await client.chat.completions.create({
    model,
    messages: asking("Answer in JSON."),
    response_format: { type: "json_object" },
  });
  return JSON.parse(answer.choices[0].message.content);
}

async function parsed(client) {
  const json_schema = { name: "weather", schema: { ...parameters, additionalProperties: false }, strict: true };
  const answer = await client.chat.completions.create({
    model,
    messages: asking("How is the weather?"),
    response_format: { type: "json_schema", json_schema },
  });
  return JSON.parse(answer.choices[0].message.content);
}

async function image(client) {
  const parts = [
    { type: "text", text: question },
    { type: "image_url", image_url: { url: picture } },
  ];
  const answer = await client.chat.completions.create({ model, messages: asking(parts) });
  return answer.choices[0].message.content;
}

async function embeddings(client) {
  const found = await client.embeddings.create({ model, input: ["Ark", "Lightning"] });
  return found.data.map((one) => one.embedding.length);
}

async function responses(client) {
  const { data, response } = await client.responses.create({ model, input: question }).withResponse();
  return { text: data.output_text, usage: data.usage, headers: headersOf(response) };
}

async function responsesStreamed(client) {
  const stream = client.responses.stream({ model, input: question });
  let text = "";
  for await (const event of stream) if (event.type === "response.output_text.delta") text += event.delta;
  return { text, usage: (await stream.finalResponse()).usage };
}

async function refusal(differs) {
  const fields = { url, key: keys[0][1], model, messages: asking(question), stream: false, ...differs };
  let requests = 0;
  const counting = (...request) => {
    requests += 1;
    return fetch(...request);
  };
  const buyer = new OpenAI({ baseURL: fields.url, apiKey: fields.key, fetch: counting });
  try {
    const { messages, stream } = fields;
    const answer = await buyer.chat.completions.create({ model: fields.model, messages, stream });
    if (stream) for await (const _ of answer);
    return { kinds: [], requests };
  } catch (error) {
    const { message, status = null, code = null, requestID: request_id = null } = error;
    return { kinds: kindsOf(error), message, status, code, request_id, requests };
  }
}

function kindsOf(error) {
  const kinds = [];
  for (let kind = error.constructor; kind?.name; kind = Object.getPrototypeOf(kind)) kinds.push(kind.name);
  return kinds;
}

async function factsOf(key) {
  const client = new OpenAI({ baseURL: url, apiKey: key });
  const question = { model, messages: asking(toolQuestion), tools };
  return {
    models: await all(client.models.list()),
    buffered: await buffered(client),
    streamed: await streamed(client, { stream_options: { include_usage: true } }),
    streamed_without_usage: await streamed(client),
    tool: called(await client.chat.completions.create(question)),
    streamed_tool: called(await client.chat.completions.stream(question).finalChatCompletion()),
    json: await jsonObject(client),
    parsed: await parsed(client),
    image: await image(client),
    embeddings: await embeddings(client),
    responses: await responses(client),
    responses_streamed: await responsesStreamed(client),
  };
}

const named = async (entries, seen) =>
  Object.fromEntries(await Promise.all(entries.map(async ([name, value]) => [name, await seen(value)])));

console.log(
  JSON.stringify({
    sdk: `openai ${version} (Node ${process.versions.node})`,
    facts: await named(keys, factsOf),
    refused: await named(Object.entries(refused), refusal),
  }),
);
