// Anthropic's client: a message at once and streamed, a tool's call and the answer to its result.
import Anthropic from "@anthropic-ai/sdk";
import { Weather, length, messages, model, report, seed, url } from "./given.mjs";
import { z } from "zod";

const client = new Anthropic({ baseURL: url, apiKey: "none", defaultHeaders: { "X-Folio-Tools": "call" } });
const short = { model, messages, seed, max_tokens: length };
const chat = (await client.messages.create(short)).content[0].text;
const streamed = await client.messages.stream(short).finalText();

const tools = [{ name: "forecast", input_schema: z.toJSONSchema(Weather) }];
const given = { model, seed, max_tokens: 400, tools };
const called = await client.messages.create({ ...given, messages });
const [call] = called.content;
const result = { role: "user", content: [{ type: "tool_result", tool_use_id: call.id, content: "rain" }] };
const answer = await client.messages.create({ ...given, messages: [...messages, { role: "assistant", content: called.content }, result] });
const error = await client.messages.create({ ...short, model: "nobody" }).catch((error) => error.status);
report({ chat, streamed, parsed: call.input, answer: answer.content[0].text, calls: [call.input.days], error });
