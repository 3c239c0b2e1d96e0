// Talks to the service: JSON answers, streams of server-sent events, and what goes wrong with either. Knows nothing of the page.

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

async function answer(to, options) {
  try {
    return await fetch(path(to), options);
  } catch (error) {
    throw options.signal?.aborted ? error : new Lost("The server does not answer.");
  }
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

export async function get(to, options = {}) {
  const response = await answer(to, options);
  if (!response.ok) throw await refusal(response);
  return response.json();
}

export const post = (to, body) =>
  get(to, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });

/** The events that answer a POST: {name, data, id}. Ends when the connection does, in peace or not. */
export async function* events(to, body, { lastEventId = null, signal }) {
  const headers = { "Content-Type": "application/json", ...(lastEventId && { "Last-Event-ID": lastEventId }) };
  const response = await answer(to, { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw await refusal(response);
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
