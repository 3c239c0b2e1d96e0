// LangChain's chat model for OpenAI's protocol.
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";
import { Weather, length, model, question, report, seed, v1 } from "./given.mjs";

const configuration = { baseURL: v1, defaultHeaders: { "X-Folio-Tools": "call" } };
const given = { model, apiKey: "none", configuration, modelKwargs: { seed }, maxRetries: 0 };
const short = new ChatOpenAI({ ...given, maxTokens: length });
const chat = (await short.invoke(question)).content;
let streamed = "";
for await (const chunk of await short.stream(question)) streamed += chunk.content;
const parsed = await new ChatOpenAI(given).withStructuredOutput(Weather, { method: "jsonSchema" }).invoke(question);

const calls = [];
const forecast = tool(({ days }) => (calls.push(days), "rain"), {
  name: "forecast",
  description: "Returns the weather.",
  schema: z.object({ days: z.number().int().min(1).max(14) }),
});
const bound = new ChatOpenAI(given).bindTools([forecast]);
const asked = [["user", question]];
const called = await bound.invoke(asked);
const results = await Promise.all(called.tool_calls.map((call) => forecast.invoke(call)));
const answer = (await bound.invoke([...asked, called, ...results])).content;
report({ chat, streamed, parsed, answer, calls });
