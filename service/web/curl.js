// A request as a command for a POSIX shell.

import { url } from "./events.js";
import { key } from "./key.js";

// Control characters and separators are invisible in a terminal or reverse the line. JSON can escape them.
const INVISIBLE = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

const KEY = '-H "Authorization: Bearer $FOLIO_API_KEY"'; // never the key itself, because commands are saved and shared

export function curl(path, body) {
  return [
    `curl -sSN ${quote(url(path))}`,
    `-H ${quote("Content-Type: application/json")}`,
    ...(key.required ? [KEY] : []),
    `--data-raw ${quote(json(body))}`,
  ].join(" \\\n  ");
}

const quote = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const json = (body) =>
  JSON.stringify(body).replace(INVISIBLE, (character) =>
    character.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join(""));
