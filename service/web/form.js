// The form's fields: converted to a request's body, and saved in the URL so that a reload or a link restores them.

const SLIDERS = ["temperature", "top_p", "min_p"];

export class Form {
  #element;

  constructor(element) {
    this.#element = element;
    this.#restore();
    let saving = 0;
    element.addEventListener("input", () => {
      this.#showValues();
      clearTimeout(saving); // browsers limit how often the URL may change
      saving = setTimeout(() => this.#save(), 250);
    });
    addEventListener("hashchange", () => this.#restore());
  }

  field(name) {
    return this.#element.elements.namedItem(name);
  }

  value(name) {
    return this.field(name).value;
  }

  set(name, value) {
    this.field(name).value = name === "allowed_characters" ? escapeLine(value) : value;
    this.field(name).dispatchEvent(new Event("input", { bubbles: true }));
  }

  /** Sets a field's default, and its value too unless the user has changed it. */
  setDefault(name, value) {
    const field = this.field(name);
    const unchanged = field.value === field.defaultValue;
    field.defaultValue = value;
    if (unchanged) field.value = value;
  }

  /** The request's body, without fields at the server's defaults. */
  body() {
    const body = { start_string: this.value("start_string"), temperature: Number(this.value("temperature")) };
    const number = (name, serverDefault) => {
      const value = this.value(name) === "" ? serverDefault : Number(this.value(name));
      if (value !== serverDefault) body[name] = value;
    };
    number("top_k", null);
    number("top_p", 1);
    number("min_p", 0);
    if (this.value("allowed_characters")) body.allowed_characters = unescapeLine(this.value("allowed_characters"));
    const stop = this.value("stop").split("\n").filter(Boolean).map(unescapeLine);
    if (stop.length) body.stop = stop;
    number("num_generate", null);
    number("seed", null);
    body.seed ??= randomSeed(); // chosen here, so that the seed of an interrupted text is known too
    if (this.value("model")) body.model = this.value("model");
    if (this.field("tint").checked) body.logprobs = 5;
    return { ...body, stream: true, return_state: true };
  }

  /** Marks the field of an invalid request parameter, and unmarks all others. */
  markInvalid(param) {
    const name = param?.split(".")[0];
    for (const element of this.#element.elements) {
      if (element.name && element.name === name) element.setAttribute("aria-invalid", "true");
      else element.removeAttribute("aria-invalid");
    }
  }

  /** Fills the list of models. Keeps the user's choice, or the one saved in the URL. */
  setModels(models) {
    const select = this.field("model");
    const wanted = select.value || select.dataset.wanted;
    const chosen = models.find(({ name }) => name === wanted) ?? models.find((model) => model.default);
    select.replaceChildren(
      ...models.map((model) => new Option(`${model.name}, version ${model.version}`, model.name, model.default, model === chosen)),
    );
  }

  #fields() {
    return [...this.#element.elements].filter((element) => element.name);
  }

  #save() {
    const saved = new URLSearchParams();
    for (const field of this.#fields()) {
      if (field.type === "checkbox") {
        if (field.checked) saved.set(field.name, "on");
      } else if (field.value !== initial(field)) {
        saved.set(field.name, field.value);
      }
    }
    const hash = saved.toString();
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
  }

  #restore() {
    const saved = new URLSearchParams(location.hash.slice(1));
    for (const field of this.#fields()) {
      if (field.type === "checkbox") field.checked = saved.has(field.name);
      else if (field.name === "model") restoreModel(field, saved.get("model"));
      else field.value = saved.get(field.name) ?? initial(field);
    }
    this.#showValues();
  }

  /** Shows the sliders' values. */
  #showValues() {
    for (const name of SLIDERS) {
      const value = Number(this.value(name)).toFixed(2);
      this.#element.querySelector(`[data-of="${name}"]`).textContent = value;
    }
  }
}

/** Remembers the model for `setModels`, because a select cannot hold a value without its option. */
function restoreModel(select, wanted) {
  select.dataset.wanted = wanted ?? "";
  const option = [...select.options].find(({ value, defaultSelected }) => (wanted ? value === wanted : defaultSelected));
  if (option) option.selected = true;
}

function initial(field) {
  if (field.tagName === "SELECT") return [...field.options].find((option) => option.defaultSelected)?.value ?? "";
  return field.defaultValue;
}

function randomSeed() {
  const [high, low] = crypto.getRandomValues(new Uint32Array(2));
  return (high & 0x1fffff) * 2 ** 32 + low; // 53 bits, which JSON parsers represent exactly
}

const ESCAPES = { "\\n": "\n", "\\t": "\t", "\\\\": "\\" };

/** Escapes let a one-line field contain line breaks. */
const unescapeLine = (text) => text.replace(/\\[nt\\]/g, (pair) => ESCAPES[pair]);
const escapeLine = (text) => text.replace(/[\n\t\\]/g, (character) => ({ "\n": "\\n", "\t": "\\t", "\\": "\\\\" })[character]);
