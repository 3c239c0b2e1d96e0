// Vercel's AI SDK with the API that it uses by default, OpenAI's Responses.
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";
import { Weather, length, model, question, report, v1 } from "./given.mjs";

const openai = createOpenAI({ baseURL: v1, apiKey: "none", headers: { "X-Folio-Tools": "call" } });
const given = { model: openai(model), prompt: question, temperature: 0, maxRetries: 0 };
const { text: chat } = await generateText({ ...given, maxOutputTokens: length });
let streamed = "";
for await (const part of streamText({ ...given, maxOutputTokens: length }).textStream) streamed += part;
const { object: parsed } = await generateObject({ ...given, schema: Weather });

const calls = [];
const forecast = tool({
  description: "Returns the weather.",
  inputSchema: z.object({ days: z.number().int().min(1).max(14) }),
  execute: async ({ days }) => (calls.push(days), "rain"),
});
const agent = await generateText({ ...given, tools: { forecast }, stopWhen: stepCountIs(5) });
report({ chat, streamed, parsed, answer: agent.text, calls });
