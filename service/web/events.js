// HTTP requests to the service, with the API key if there is one: JSON, files, streams of server-sent events. Knows nothing of the page.

import { key } from "./key.js";

/** An error answer: the server's error object, the status, and the seconds of Retry-After. */
export class ApiError extends Error {
  constructor(error, status, retryAfter = null) {
    super(error.message);
    Object.assign(this, { code: error.code, type: error.type, param: error.param, status, retryAfter });
  }
}

/** The server did not answer, or the connection was lost. */
export class ConnectionLost extends Error {}

export const url = (path) => new URL(path.replace(/^\//, ""), document.baseURI).href;

/** Sends a request. If the server requires another key, waits for one and sends it again. */
async function sendWithKey(path, options) {
  for (;;) {
    const { value } = key;
    const response = await send(path, value, options);
    if (response.status !== 401) return response;
    await key.waitForAnother(value, options.signal);
  }
}

async function send(path, keyValue, { headers = {}, ...options } = {}) {
  try {
    const authorization = keyValue !== null && { Authorization: `Bearer ${keyValue}` };
    return await fetch(url(path), { ...options, headers: { ...headers, ...authorization } });
  } catch (error) {
    throw options.signal?.aborted ? error : new ConnectionLost("The server does not answer.");
  }
}

/** Whether the server accepts this key, which need not be the stored one. */
export async function acceptsKey(value) {
  const sendable = /^[!-~]+$/.test(value); // no other string can be a key
  return sendable && (await send("models", value)).status !== 401;
}

async function toApiError(response) {
  const retryAfter = Number(response.headers.get("Retry-After")) || null;
  try {
    return new ApiError((await response.json()).error, response.status, retryAfter);
  } catch {
    // A proxy answered instead of the server.
    const error = { code: `http_${response.status}`, message: `The answer was ${response.status} ${response.statusText}.` };
    return new ApiError({ ...error, type: response.status >= 500 ? "server_error" : "invalid_request_error" }, response.status, retryAfter);
  }
}

async function sendOrThrow(path, options = {}) {
  const response = await sendWithKey(path, options);
  if (!response.ok) throw await toApiError(response);
  return response;
}

export const get = async (path, options) => (await sendOrThrow(path, options)).json();

export const post = (path, body) =>
  get(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

export async function getBlob(path, options) {
  const response = await sendOrThrow(path, options);
  return new Blob([await response.blob()], { type: response.headers.get("Content-Type") ?? "" }); // blob() alone drops the charset
}

/** The events that answer a POST: {name, data, id}. Returns when the connection closes, even if the stream is incomplete. */
export async function* events(path, body, { lastEventId = null, signal }) {
  const headers = { "Content-Type": "application/json", ...(lastEventId && { "Last-Event-ID": lastEventId }) };
  const response = await sendOrThrow(path, { method: "POST", headers, body: JSON.stringify(body), signal });
  yield { name: "open" };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await read(reader, signal);
      if (done) return;
      // Split at line feeds only: the data may contain U+2028 and other line separators.
      const blocks = (rest + value).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parseEvent(block);
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
    throw signal?.aborted ? error : new ConnectionLost("The connection to the server was lost.");
  }
}

/** The event of a block of lines; null for a comment. */
function parseEvent(block) {
  const fields = { event: "message" };
  for (const line of block.split("\n")) {
    const colon = line.indexOf(":");
    if (colon > 0) fields[line.slice(0, colon)] = line.slice(colon + 1).replace(/^ /, "");
  }
  return fields.data === undefined ? null : { name: fields.event, data: JSON.parse(fields.data), id: fields.id };
}
