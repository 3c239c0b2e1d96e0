// Which models there are, and what is known of the one that is picked.

import { Lost, file, get, path } from "./events.js";
import { key } from "./key.js";

const number = new Intl.NumberFormat("en");
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "long" });

/** Asks until the server has its models. `waiting` is told why there is none yet. */
export async function models(waiting) {
  for (let pause = 500; ; pause = Math.min(2 * pause, 8000)) {
    try {
      return (await get("models")).models;
    } catch (error) {
      if (error.code === "not_ready") waiting("The server is loading its models…");
      else if (error instanceof Lost) waiting("The server does not answer. Trying again…");
      else if (error.status === 429) waiting("The server has been asked too often. Trying again…");
      else throw error;
      pause = Math.max(pause, (error.retryAfter ?? 0) * 1000);
    }
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

export class About {
  #section;
  #image;
  #showing = new AbortController(); // of one model

  constructor(section) {
    this.#section = section;
    this.#image = this.#find("#loss img");
    this.#image.addEventListener("error", () => (this.#find("#loss").hidden = true));
  }

  /** There is none yet, for this reason. */
  say(why) {
    this.#find("#about-state").textContent = why;
    this.#find("#about-state").hidden = false;
  }

  show(model) {
    this.#showing.abort();
    this.#showing = new AbortController();
    this.#section.setAttribute("aria-busy", "false");
    this.#find("#about-title").textContent = `${model.name}, version ${model.version}`;
    this.#find("#about-state").hidden = true;
    this.#find("#about-body").hidden = false;
    this.#find("#facts").replaceChildren(...facts(model).map(([name, value, hint]) => fact(name, value, hint)));
    if (model.sample) this.#reach(model.sample, (address) => this.#showSample(address));
    this.#find("#loss").hidden = true;
    this.#image.removeAttribute("src");
    if (model.loss) this.#reach(model.loss, (address) => this.#showLoss(model, address));
  }

  #showSample(address) {
    this.#find("#facts").append(fact("Sample", link("what it wrote when it was made", address)));
  }

  #showLoss({ name, version }, address) {
    this.#find("#loss").hidden = false;
    this.#image.alt = `Loss curve of ${name}, version ${version}`;
    this.#image.src = address;
    this.#find("#loss a").href = address;
  }

  /** Tells `use` where a file of the model is: images and links send no key, so where one is needed they get a copy. */
  async #reach(to, use) {
    if (!key.needed) return use(path(to));
    const { signal } = this.#showing;
    let copy;
    try {
      copy = URL.createObjectURL(await file(to, { signal }));
    } catch {
      return; // not there, or another model is shown by now
    }
    signal.addEventListener("abort", () => URL.revokeObjectURL(copy), { once: true });
    use(copy);
  }

  #find(selector) {
    return this.#section.querySelector(selector);
  }
}

function facts(model) {
  const { scores = {}, scores_as_served: served, layers, units, cell } = model;
  return [
    ["Score full_pass", score(scores.full_pass), `held-out text read at a stretch${asServed(served?.full_pass)}`],
    ["Score cold_256", score(scores.cold_256), `in windows of 256 characters${asServed(served?.cold_256)}`],
    ["Parameters", number.format(model.parameters)],
    ["Vocabulary", `${number.format(model.vocabulary_size)} characters`],
    ["Network", `${layers} ${cell.toUpperCase()} layer${layers === 1 ? "" : "s"} of ${number.format(units)} units`],
    ["Learned from", `${number.format(model.characters)} characters`],
    ["Recipe", model.recipe],
    ["Made", date.format(new Date(model.created))],
    ["Runs on", `${model.engine}, ${model.precision}`],
  ];
}

/** Nats per character of text the model has not learned from; null where nothing was held out. */
const score = (nats) => (nats == null ? "nothing held out" : `${nats.toFixed(3)} nats per character`);

/** The same of the network in int8; nothing where it was not measured. */
const asServed = (nats) => (nats == null ? "" : `; ${nats.toFixed(3)} in int8`);

function fact(name, value, hint) {
  const row = document.createElement("div");
  row.appendChild(document.createElement("dt")).textContent = name;
  const data = row.appendChild(document.createElement("dd"));
  data.append(value);
  if (hint) {
    const small = data.appendChild(document.createElement("small"));
    small.textContent = hint;
  }
  return row;
}

function link(text, href) {
  const element = document.createElement("a");
  element.textContent = text;
  element.href = href;
  return element;
}
