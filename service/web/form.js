// The form's fields: as a request's body, and kept in the address, so that a reload or a link brings them back.

const SLIDERS = ["temperature", "top_p", "min_p"];

export class Form {
  #element;

  constructor(element) {
    this.#element = element;
    this.#recall();
    let saving = 0;
    element.addEventListener("input", () => {
      this.#show();
      clearTimeout(saving); // browsers refuse to be told of each step of a slider
      saving = setTimeout(() => this.#save(), 250);
    });
    addEventListener("hashchange", () => this.#recall());
  }

  field(name) {
    return this.#element.elements.namedItem(name);
  }

  value(name) {
    return this.field(name).value;
  }

  set(name, value) {
    this.field(name).value = name === "allowed_characters" ? escaped(value) : value;
    this.field(name).dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** Sets a field to what it begins with, unless it was changed. */
  suggest(name, value) {
    const field = this.field(name);
    const untouched = field.value === field.defaultValue;
    field.defaultValue = value;
    if (untouched) field.value = value;
  }

  /** What to ask for: what is as the server has it anyway is left out, a seed is drawn where none is given. */
  body() {
    const body = { start_string: this.value("start_string"), temperature: Number(this.value("temperature")) };
    const number = (name, otherwise) => {
      const value = this.value(name) === "" ? otherwise : Number(this.value(name));
      if (value !== otherwise) body[name] = value;
    };
    number("top_k", null);
    number("top_p", 1);
    number("min_p", 0);
    if (this.value("allowed_characters")) body.allowed_characters = unescaped(this.value("allowed_characters"));
    const stop = this.value("stop").split("\n").filter(Boolean).map(unescaped);
    if (stop.length) body.stop = stop;
    number("num_generate", null);
    number("seed", null);
    body.seed ??= drawn(); // by the page, so that it is known even of a text that was stopped or cut off
    if (this.value("model")) body.model = this.value("model");
    if (this.field("tint").checked) body.logprobs = 5;
    return { ...body, stream: true, return_state: true };
  }

  /** Marks the fields of a request that a server found fault with; none for null. */
  blame(param) {
    const name = param?.split(".")[0];
    for (const element of this.#element.elements) {
      if (element.name && element.name === name) element.setAttribute("aria-invalid", "true");
      else element.removeAttribute("aria-invalid");
    }
  }

  /** Fills the model picker; keeps the choice made, or remembered. */
  models(models) {
    const select = this.field("model");
    const wanted = select.value || select.dataset.wanted;
    const chosen = models.find(({ name }) => name === wanted) ?? models.find((model) => model.default);
    select.replaceChildren(
      ...models.map((one) => new Option(`${one.name}, version ${one.version}`, one.name, one.default, one === chosen)),
    );
  }

  #fields() {
    return [...this.#element.elements].filter((element) => element.name);
  }

  #save() {
    const kept = new URLSearchParams();
    for (const field of this.#fields()) {
      if (field.type === "checkbox") {
        if (field.checked) kept.set(field.name, "on");
      } else if (field.value !== initial(field)) {
        kept.set(field.name, field.value);
      }
    }
    const hash = kept.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  #recall() {
    const kept = new URLSearchParams(location.hash.slice(1));
    for (const field of this.#fields()) {
      if (field.type === "checkbox") field.checked = kept.has(field.name);
      else if (field.name === "model") recallModel(field, kept.get("model"));
      else field.value = kept.get(field.name) ?? initial(field);
    }
    this.#show();
  }

  #show() {
    for (const name of SLIDERS) {
      const value = Number(this.value(name)).toFixed(2);
      this.#element.querySelector(`[data-of="${name}"]`).textContent = value;
    }
  }
}

/** A select holds only what it has options for, and these come later. */
function recallModel(select, wanted) {
  select.dataset.wanted = wanted ?? "";
  const option = [...select.options].find((one) => (wanted ? one.value === wanted : one.defaultSelected));
  if (option) option.selected = true;
}

function initial(field) {
  if (field.tagName === "SELECT") return [...field.options].find((option) => option.defaultSelected)?.value ?? "";
  return field.defaultValue;
}

function drawn() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1fffff) * 2 ** 32 + low; // 53 bits: what JSON holds exactly
}

const ESCAPES = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };

/** Fields of one line can hold line ends too. */
const unescaped = (text) => text.replace(/\\[nt\\]/g, (pair) => ESCAPES[pair]);
const escaped = (text) => text.replace(/[\n\t\\]/g, (one) => ({ "\n": "\\n", "\t": "\\t", "\\": "\\\\" })[one]);
