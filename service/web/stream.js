// One request to /generate and the text it brings, through lost connections. Knows nothing of the page.

import { Lost, Refused, events } from "./events.js";

const PAUSES = [700, 2500]; // milliseconds before the tries that follow a lost connection

/** A text's entries are one object a character (code point), {character, logprob, likeliest}; null where nobody asked for them. */
export class Stream {
  constructor(body) {
    this.body = body;
    this.text = "";
    this.entries = body.logprobs === undefined ? null : [];
    this.done = null; // what the server says of it at the end
    this.lastEventId = null;
  }

  /** Whether each character's probability is known. */
  get probable() {
    return [...this.text].length === (this.entries?.length ?? 0);
  }

  /**
   * Follows the stream to its end, or until stop(); once more after that goes on behind the last event seen.
   *
   * Tells `heard` of {open}, {text, entries} and {trying, of} as they come. Returns whether it came to its end; throws Refused or
   * Lost with all that came kept.
   */
  async follow(heard) {
    this.stopping = new AbortController();
    for (let lost = 0; ; ) {
      try {
        for await (const event of this.#events()) {
          if (event.name === "message") lost = 0; // it gets on: there are all tries again
          this.#take(event, heard);
          if (this.done) return true;
        }
        throw new Lost("The connection to the server broke.");
      } catch (error) {
        if (this.stopping.signal.aborted) return false;
        const loading = error.code === "not_ready"; // it will be: wait as long as it takes
        if (!loading && (!passing(error) || lost === PAUSES.length)) throw error;
        heard(loading ? { loading: true } : { trying: lost + 1, of: PAUSES.length });
        if (!(await this.#pause(loading ? (error.retryAfter ?? 1) * 1000 : PAUSES[lost++]))) return false;
      }
    }
  }

  stop() {
    this.stopping.abort();
  }

  #events() {
    return events("generate", this.body, { lastEventId: this.lastEventId, signal: this.stopping.signal });
  }

  #take(event, heard) {
    if (event.name === "open") return heard({ open: true });
    if (event.name === "error") throw new Refused(event.data.error, 200);
    this.lastEventId = event.id ?? this.lastEventId;
    if (event.name === "done") {
      this.done = event.data;
    } else if (event.name === "message") {
      const { text, logprobs = null } = event.data;
      this.text += text;
      if (this.entries && logprobs) this.entries.push(...logprobs);
      heard({ text, entries: logprobs });
    }
  }

  /** Whether the time passed without a stop. */
  #pause(milliseconds) {
    const { signal } = this.stopping;
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds, true);
      signal.addEventListener("abort", () => (clearTimeout(timer), resolve(false)), { once: true });
    });
  }
}

/** Worth another try: the connection is gone, or a server, its engine or what stands before it is going or coming. */
const passing = (error) =>
  error instanceof Lost || ["engine_stopped", "engine_failed"].includes(error.code) || [502, 503, 504].includes(error.status);
