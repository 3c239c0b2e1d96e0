// A request as a command for a POSIX shell.

import { path } from "./events.js";
import { key } from "./key.js";

// Invisible in a terminal, or worse: they turn the line round. JSON can name them.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu;

const KEY = '-H "Authorization: Bearer $FOLIO_API_KEY"'; // not the key itself: commands are kept, and shown to others

export function curl(to, body) {
  return [
    `curl -sSN ${quoted(path(to))}`,
    `-H ${quoted("Content-Type: application/json")}`,
    ...(key.needed ? [KEY] : []),
    `--data-raw ${quoted(json(body))}`,
  ].join(" \\\n  ");
}

/** Single quotes keep everything but themselves. */
const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;

const json = (body) =>
  JSON.stringify(body).replace(UNSEEN, (one) =>
    one.split("").map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`).join(""));
