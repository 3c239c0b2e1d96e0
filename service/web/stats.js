// Statistics of a text: what the page measures while it arrives, and the receipt that the server sends at the end.

const number = new Intl.NumberFormat("en");
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MEASURABLE = 0.002; // seconds: a shorter stream gives no meaningful rate
const milliseconds = (value) => `${number.format(Number(value.toFixed(value < 10 ? 2 : 1)))} ms`;

export class Stats {
  #startedAt = 0;
  #firstAt = null; // arrival of the first text
  #lastAt = null; // arrival of the latest text on this connection
  #characters = 0;
  #timed = 0; // characters whose arrival was timed: all but the first ones of each connection
  #seconds = 0; // time in which they arrived
  #frame = 0;

  get characters() {
    return number.format(this.#characters);
  }

  start(startedAt) {
    this.#startedAt = startedAt;
    this.#firstAt = null;
    this.#characters = this.#timed = this.#seconds = 0;
    this.#find("receipt").hidden = true;
    this.#find("stats").hidden = false;
    this.#show();
  }

  /** Call it when a connection opens, also a later one of the same text. */
  connected() {
    this.#lastAt = null;
  }

  count(text) {
    const characters = [...text].length;
    const now = performance.now();
    this.#characters += characters;
    if (this.#lastAt !== null) {
      this.#timed += characters;
      this.#seconds += (now - this.#lastAt) / 1000;
    }
    this.#lastAt = now;
    this.#firstAt ??= now;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  flush() {
    cancelAnimationFrame(this.#frame);
    this.#show();
  }

  showReceipt({ model, version, engine, precision, seed, finish_reason, usage, timings }) {
    const rows = [
      ["Model", `${model}, version ${version}`],
      ["Engine", engine],
      ["Precision", precision],
      ["Seed", String(seed)],
      ["Finish reason", finish_reason],
      ["Characters read", number.format(usage.prompt_characters)],
      ["Characters generated", number.format(usage.generated_characters)],
      ["Queue", milliseconds(timings.queue_ms)],
      ["Prefill", milliseconds(timings.prefill_ms)],
      ["Decode", milliseconds(timings.decode_ms)],
    ];
    this.#find("receipt").querySelector("dl").replaceChildren(...rows.map(row));
    this.#find("receipt").hidden = false;
  }

  #show() {
    this.#frame = 0;
    this.#find("count").textContent = this.characters;
    this.#find("speed").textContent = this.#seconds > MEASURABLE ? whole.format(this.#timed / this.#seconds) : "–";
    this.#find("ttft").textContent = this.#firstAt === null ? "–" : milliseconds(this.#firstAt - this.#startedAt);
  }

  #find(id) {
    return document.getElementById(id);
  }
}

function row([name, value]) {
  const element = document.createElement("div");
  element.appendChild(document.createElement("dt")).textContent = name;
  element.appendChild(document.createElement("dd")).textContent = value;
  return element;
}
