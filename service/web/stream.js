// One request to /generate and its text, across lost connections. Knows nothing of the page.

import { ApiError, ConnectionLost, events } from "./events.js";

const RETRY_DELAYS = [700, 2500]; // milliseconds before each retry after a lost connection

/** `entries` has one {character, logprob, likeliest} per character (code point). It is null if the request has no logprobs. */
export class Stream {
  constructor(body) {
    this.body = body;
    this.text = "";
    this.entries = body.logprobs === undefined ? null : [];
    this.done = null; // data of the event `done`
    this.lastEventId = null;
  }

  /** Whether each character's probability is known. */
  get hasProbabilities() {
    return [...this.text].length === (this.entries?.length ?? 0);
  }

  /**
   * Reads the stream to its end, or until stop(). Another call continues after the last event received.
   *
   * Calls onEvent with {open}, {text, entries}, {loading} or {retry, of}. Returns whether the stream ended by itself. Throws
   * ApiError or ConnectionLost, and keeps the text received so far.
   */
  async follow(onEvent) {
    this.stopping = new AbortController();
    for (let failures = 0; ; ) {
      try {
        for await (const event of this.#events()) {
          if (event.name === "message") failures = 0; // progress restores all retries
          this.#receive(event, onEvent);
          if (this.done) return true;
        }
        throw new ConnectionLost("The connection to the server was lost.");
      } catch (error) {
        if (this.stopping.signal.aborted) return false;
        const loading = error.code === "not_ready"; // no limit on retries: the server will be ready
        if (!loading && (!isTransient(error) || failures === RETRY_DELAYS.length)) throw error;
        onEvent(loading ? { loading: true } : { retry: failures + 1, of: RETRY_DELAYS.length });
        if (!(await this.#sleep(loading ? (error.retryAfter ?? 1) * 1000 : RETRY_DELAYS[failures++]))) return false;
      }
    }
  }

  stop() {
    this.stopping.abort();
  }

  #events() {
    return events("generate", this.body, { lastEventId: this.lastEventId, signal: this.stopping.signal });
  }

  #receive(event, onEvent) {
    if (event.name === "open") return onEvent({ open: true });
    if (event.name === "error") throw new ApiError(event.data.error, 200);
    this.lastEventId = event.id ?? this.lastEventId;
    if (event.name === "done") {
      this.done = event.data;
    } else if (event.name === "message") {
      const { text, logprobs = null } = event.data;
      this.text += text;
      if (this.entries && logprobs) this.entries.push(...logprobs);
      onEvent({ text, entries: logprobs });
    }
  }

  /** Returns false if stop() ended the wait. */
  #sleep(milliseconds) {
    const { signal } = this.stopping;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds, true);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve(false)), { once: true });
    });
  }
}

/** Worth a retry: the connection was lost, or the server, its engine or a proxy is stopping or starting. */
const isTransient = (error) =>
  error instanceof ConnectionLost || ["engine_stopped", "engine_failed"].includes(error.code) || [502, 503, 504].includes(error.status);
