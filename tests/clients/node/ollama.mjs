// Ollama's client: a chat at once and streamed, an answer by a schema, a tool's call and the answer to its result.
import { Ollama } from "ollama";
import { z } from "zod";
import { Weather, length, messages, model, report, seed, url } from "./given.mjs";

const client = new Ollama({ host: url, headers: { "X-Folio-Tools": "call" } });
const short = { model, messages, options: { seed, num_predict: length } };
const chat = (await client.chat(short)).message.content;
let streamed = "";
for await (const part of await client.chat({ ...short, stream: true })) streamed += part.message.content;

const given = { model, options: { seed, num_predict: 400 } };
const parsed = JSON.parse((await client.chat({ ...given, messages, format: z.toJSONSchema(Weather) })).message.content);
const tools = [{ type: "function", function: { name: "forecast", description: "", parameters: z.toJSONSchema(Weather) } }];
const called = (await client.chat({ ...given, messages, tools })).message;
const result = { role: "tool", tool_name: "forecast", content: "rain" };
const answer = (await client.chat({ ...given, messages: [...messages, called, result], tools })).message.content;
const calls = called.tool_calls.map((call) => call.function.arguments.days);
const error = await client.chat({ ...short, model: "nobody" }).catch((error) => error.status_code);
report({ chat, streamed, parsed, answer, calls, error });
