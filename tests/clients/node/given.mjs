// What every script is given: `node script.mjs {"v1": base URL, "model": name, "question": text, "seed": number, "length": number}`.
import { z } from "zod";

export const { v1, model, question, seed, length } = JSON.parse(process.argv[2]);
export const messages = [{ role: "user", content: question }];
export const options = { seed, max_tokens: length };
export const Weather = z.object({ city: z.string().max(20), days: z.number().int().min(1).max(14), sky: z.enum(["clear", "rain"]) });

export function report(found) {
  console.log(JSON.stringify(found));
}
