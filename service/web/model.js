// The list of models, and the section about the selected model.

import { ConnectionLost, get, getBlob, url } from "./events.js";
import { key } from "./key.js";

const number = new Intl.NumberFormat("en");
const date = new Intl.DateTimeFormat("en-GB", { dateStyle: "long" });

/** The server's models. Retries until the server has loaded them, and calls `onWait` with the reason for each retry. */
export async function listModels(onWait) {
  for (let delay = 500; ; delay = Math.min(2 * delay, 8000)) {
    try {
      return (await get("models")).models;
    } catch (error) {
      if (error.code === "not_ready") onWait("The server is loading its models…");
      else if (error instanceof ConnectionLost) onWait("The server does not answer. Retrying…");
      else if (error.status === 429) onWait("Too many requests. Retrying…");
      else throw error;
      delay = Math.max(delay, (error.retryAfter ?? 0) * 1000);
    }
    await new Promise((resolve) => setTimeout(resolve, delay));
  }
}

export class About {
  #section;
  #image;
  #shown = new AbortController(); // aborted when another model is shown

  constructor(section) {
    this.#section = section;
    this.#image = this.#find("#loss img");
    this.#image.addEventListener("error", () => (this.#find("#loss").hidden = true));
  }

  /** Says why no model is shown yet. */
  setStatus(message) {
    this.#find("#about-state").textContent = message;
    this.#find("#about-state").hidden = false;
  }

  show(model) {
    this.#shown.abort();
    this.#shown = new AbortController();
    this.#section.setAttribute("aria-busy", "false");
    this.#find("#about-title").textContent = `${model.name}, version ${model.version}`;
    this.#find("#about-state").hidden = true;
    this.#find("#about-body").hidden = false;
    this.#find("#facts").replaceChildren(...facts(model).map(([name, value, hint]) => fact(name, value, hint)));
    if (model.sample) this.#withUrl(model.sample, (address) => this.#showSample(address));
    this.#find("#loss").hidden = true;
    this.#image.removeAttribute("src");
    if (model.loss) this.#withUrl(model.loss, (address) => this.#showLoss(model, address));
  }

  #showSample(address) {
    this.#find("#facts").append(fact("Sample", link("sample.txt", address)));
  }

  #showLoss({ name, version }, address) {
    this.#find("#loss").hidden = false;
    this.#image.alt = `Loss curve of ${name}, version ${version}`;
    this.#image.src = address;
    this.#find("#loss a").href = address;
  }

  /** Calls `use` with the URL of a model's file. Images and links cannot send a key, so they get a local copy if one is required. */
  async #withUrl(path, use) {
    if (!key.required) return use(url(path));
    const { signal } = this.#shown;
    let copy;
    try {
      copy = URL.createObjectURL(await getBlob(path, { signal }));
    } catch {
      return; // the file does not exist, or another model is shown now
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
    ["Score full_pass", score(scores.full_pass), `held-out text, state carried throughout${asServed(served?.full_pass)}`],
    ["Score cold_256", score(scores.cold_256), `held-out text, windows of 256 characters${asServed(served?.cold_256)}`],
    ["Parameters", number.format(model.parameters)],
    ["Vocabulary", `${number.format(model.vocabulary_size)} characters`],
    ["Network", `${layers} ${cell.toUpperCase()} layer${layers === 1 ? "" : "s"} of ${number.format(units)} units`],
    ["Corpus", `${number.format(model.characters)} characters`],
    ["Recipe", model.recipe],
    ["Published", date.format(new Date(model.created))],
    ["Engine", `${model.engine}, ${model.precision}`],
  ];
}

/** Nats per character; null if the training had no held-out text. */
const score = (nats) => (nats == null ? "no held-out text" : `${nats.toFixed(3)} nats per character`);

/** The score of the int8 network; empty if it was not measured. */
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
