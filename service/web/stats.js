// What a text cost: what the page measures as it comes, and the receipt that the server gives at its end.

const number = new Intl.NumberFormat("en");
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const MEASURABLE = 0.002; // seconds: what comes at one stroke has no speed
const milliseconds = (value) => `${number.format(Number(value.toFixed(value < 10 ? 2 : 1)))} ms`;

export class Account {
  #clicked = 0;
  #first = null; // when the first text came
  #last = null; // and the last of this connection
  #characters = 0;
  #timed = 0; // characters of which it is known how long they took: not the first of a connection
  #seconds = 0; // that these took
  #frame = 0;

  get characters() {
    return number.format(this.#characters);
  }

  begin(clicked) {
    this.#clicked = clicked;
    this.#first = null;
    this.#characters = this.#timed = this.#seconds = 0;
    this.#find("receipt").hidden = true;
    this.#find("account").hidden = false;
    this.#show();
  }

  /** A connection, maybe a further one, is there. */
  open() {
    this.#last = null;
  }

  count(text) {
    const characters = [...text].length;
    const now = performance.now();
    this.#characters += characters;
    if (this.#last !== null) {
      this.#timed += characters;
      this.#seconds += (now - this.#last) / 1000;
    }
    this.#last = now;
    this.#first ??= now;
    this.#frame ||= requestAnimationFrame(() => this.#show());
  }

  rest() {
    cancelAnimationFrame(this.#frame);
    this.#show();
  }

  receive({ model, version, engine, precision, seed, finish_reason, usage, timings }) {
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
    this.#find("ttft").textContent = this.#first === null ? "–" : milliseconds(this.#first - this.#clicked);
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
