// OpenAI's client: a chat at once and streamed, a parsed answer, and runTools, which calls tools until an answer comes.
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { Weather, messages, model, options, report, v1 } from "./given.mjs";

const client = new OpenAI({ baseURL: v1, apiKey: "none" });
const chat = await client.chat.completions.create({ model, messages, ...options });
let streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, ...options, stream: true })) {
  streamed += chunk.choices[0].delta.content ?? "";
}
const response_format = zodResponseFormat(Weather, "weather");
const parsed = await client.chat.completions.parse({ model, messages, response_format, seed: options.seed });

const calls = [];
const forecast = {
  type: "function",
  function: {
    name: "forecast",
    description: "Returns the weather.",
    parameters: { type: "object", properties: { days: { type: "integer", minimum: 1, maximum: 14 } }, required: ["days"] },
    parse: JSON.parse,
    function: ({ days }) => (calls.push(days), "rain"),
  },
};
const headers = { "X-Folio-Tools": "call" };
const runner = client.chat.completions.runTools({ model, messages, tools: [forecast], seed: options.seed }, { headers });
const embedding = await client.embeddings.create({ model, input: "To be" });
const error = await client.chat.completions.create({ model: "nobody", messages }).catch((error) => error.status);
report({
  chat: chat.choices[0].message.content,
  streamed,
  parsed: parsed.choices[0].message.parsed,
  answer: await runner.finalContent(),
  calls,
  embedding: embedding.data[0].embedding,
  error,
});
