// Talks to the service: JSON answers, streams of server-sent events, files, and what goes wrong with them. Every request goes out
// from here, with the key where there is one. Knows nothing of the page.

import { key } from "./key.js";

/** What the server said no with: its error object, its status, and the seconds it wants to be left alone. */
export class Refused extends Error {
  constructor(error, status, retryAfter = null) {
    super(error.message);
    Object.assign(this, { code: error.code, type: error.type, param: error.param, status, retryAfter });
  }
}

/** No answer, or one that broke off. */
export class Lost extends Error {}

export const path = (to) => new URL(to.replace(/^\//, ""), document.baseURI).href;

/** Asks; and where the server wants a key first, asks again once there is one. */
async function answer(to, options) {
  for (;;) {
    const { value } = key;
    const response = await ask(to, value, options);
    if (response.status !== 401) return response;
    await key.another(value, options.signal);
  }
}

async function ask(to, value, { headers = {}, ...options } = {}) {
  try {
    return await fetch(path(to), { ...options, headers: { ...headers, ...(value !== null && { Authorization: `Bearer ${value}` }) } });
  } catch (error) {
    throw options.signal?.aborted ? error : new Lost("The server does not answer.");
  }
}

/** Whether the server takes this key, which need not be the one that there is. */
export async function accepts(value) {
  const sendable = /^[!-~]+$/.test(value); // and no other can be a key
  return sendable && (await ask("models", value)).status !== 401;
}

async function refusal(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  try {
    return new Refused((await response.json()).error, response.status, retryAfter);
  } catch {
    // Something before the server, a proxy, has answered in its stead.
    const error = { code: `http_${response.status}`, message: `The answer was ${response.status} ${response.statusText}.` };
    return new Refused({ ...error, type: response.status >= 500 ? "server_error" : "invalid_request_error" }, response.status, retryAfter);
  }
}

async function good(to, options = {}) {
  const response = await answer(to, options);
  if (!response.ok) throw await refusal(response);
  return response;
}

export const get = async (to, options) => (await good(to, options)).json();

export const post = (to, body) =>
  get(to, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export async function file(to, options) {
  const response = await good(to, options);
  return new Blob([await response.blob()], { type: response.headers.get("Content-Type") ?? "" }); // blob() alone drops the charset
}

/** The events that answer a POST: {name, data, id}. Ends when the connection does, in peace or not. */
export async function* events(to, body, { lastEventId = null, signal }) {
  const headers = { "Content-Type": "application/json", ...(lastEventId && { "Last-Event-ID": lastEventId }) };
  const response = await good(to, { method: "POST", headers, body: JSON.stringify(body), signal });
  yield { name: "open" };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await read(reader, signal);
      if (done) return;
      // Line ends only: what is sent may hold U+2028 and other things that end lines elsewhere.
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

async function read(reader, signal) {
  try {
    return await reader.read();
  } catch (error) {
    throw signal?.aborted ? error : new Lost("The connection to the server broke.");
  }
}

/** An event of its lines; null for a comment. */
function parsed(block) {
  const fields = { event: "message" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  return fields.data === undefined ? null : { name: fields.event, data: JSON.parse(fields.data), id: fields.id };
}
