// The text on the page: a start string and its continuation, plain or tinted by probability.

import { Alternatives } from "./alternatives.js";
import { characterElement } from "./characters.js";

const MAX_NODE = 4000; // characters: browsers lay out a whole text node again when text is appended to it

export class TextView {
  #start;
  #continuation;
  #placeholder;
  #pending = []; // received since the last frame
  #frame = 0;
  #tinted = false;

  constructor() {
    const text = document.getElementById("text");
    this.#start = text.querySelector(".start");
    this.#continuation = text.querySelector(".continuation");
    this.#placeholder = document.getElementById("empty");
    this.alternatives = new Alternatives(this.#continuation, document.getElementById("alternatives"));
    this.parts = []; // Streams, each a continuation of the one before
  }

  get startString() {
    return this.#start.textContent;
  }

  get text() {
    return this.startString + this.parts.map((part) => part.text).join("");
  }

  get last() {
    return this.parts.at(-1);
  }

  /** Whether every character's probability is known. */
  get hasProbabilities() {
    return this.parts.every(({ hasProbabilities }) => hasProbabilities);
  }

  start(startString, tinted) {
    this.parts = [];
    this.#start.textContent = startString;
    this.#placeholder.hidden = true;
    this.tint(tinted);
  }

  /** Appends text, with its probabilities if the view is tinted. The next frame draws it. */
  write(text, entries) {
    this.#pending.push({ text, entries });
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const pending = this.#pending.splice(0);
    if (this.#tinted) for (const { text, entries } of pending) this.#appendTinted(text, entries);
    else this.#append(pending.map(({ text }) => text).join(""));
  }

  /** Draws all text again, tinted or plain. */
  tint(on) {
    this.#tinted = on;
    this.#pending = [];
    this.alternatives.reset();
    this.#continuation.replaceChildren();
    this.#continuation.classList.toggle("tinted", on);
    for (const [name, value] of Object.entries(LISTBOX)) {
      if (on) this.#continuation.setAttribute(name, value);
      else this.#continuation.removeAttribute(name);
    }
    for (const part of this.parts) if (part.text) this.#pending.push({ text: part.text, entries: part.entries });
    this.flush();
    this.alternatives.enable();
  }

  /** Shows a caret after the text. The height is fixed meanwhile, so that nothing below moves when a text is replaced. */
  set writing(on) {
    this.#start.parentElement.classList.toggle("writing", on);
    const sheet = this.#start.closest(".sheet");
    if (on) sheet.style.setProperty("min-height", `${sheet.offsetHeight}px`);
    else sheet.style.removeProperty("min-height");
  }

  /** Each line is an element, so the browser lays out only the last line again. */
  #appendTinted(text, entries) {
    let index = 0;
    for (const piece of text.match(/[^\n]*\n|[^\n]+/g)) {
      const line = this.#openLine();
      line.append(...[...piece].map((character) => characterElement(character, entries?.[index++])));
    }
  }

  /** The last line, or a new one if the last line is complete. */
  #openLine() {
    const last = this.#continuation.lastElementChild;
    if (last && last.lastElementChild.textContent !== "\n") return last;
    const line = this.#continuation.appendChild(document.createElement("span"));
    line.className = "line";
    return line;
  }

  #append(text) {
    const last = this.#continuation.lastChild;
    if (last?.nodeType === Node.TEXT_NODE && last.length < MAX_NODE) last.appendData(text);
    else if (text) this.#continuation.append(text);
  }
}

const LISTBOX = {
  role: "listbox",
  "aria-label": "Generated text, by character. The arrow keys move to a character and read its alternatives.",
  "aria-orientation": "horizontal",
};
