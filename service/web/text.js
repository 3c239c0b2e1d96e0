// The text on the page: a start string and what goes on from it, plain or tinted by probability.

import { Alternatives } from "./alternatives.js";
import { span } from "./characters.js";

const PIECE = 4000; // characters: appending to a longer text node makes browsers lay it out as a whole, again and again

export class Leaf {
  #start;
  #continuation;
  #empty;
  #waiting = []; // what came since the last frame
  #frame = 0;
  #tinted = false;

  constructor() {
    const text = document.getElementById("text");
    this.#start = text.querySelector(".start");
    this.#continuation = text.querySelector(".continuation");
    this.#empty = document.getElementById("empty");
    this.alternatives = new Alternatives(this.#continuation, document.getElementById("alternatives"));
    this.parts = []; // Streams, each going on from the one before
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
  get probable() {
    return this.parts.every(({ probable }) => probable);
  }

  begin(startString, tinted) {
    this.parts = [];
    this.#start.textContent = startString;
    this.#empty.hidden = true;
    this.tint(tinted);
  }

  /** What a part has brought, with its probabilities where the leaf is tinted; drawn with the next frame. */
  write(text, entries) {
    this.#waiting.push({ text, entries });
    this.#frame ||= requestAnimationFrame(() => this.flush());
  }

  flush() {
    cancelAnimationFrame(this.#frame);
    this.#frame = 0;
    const waiting = this.#waiting.splice(0);
    if (this.#tinted) for (const { text, entries } of waiting) this.#tint(text, entries);
    else this.#print(waiting.map(({ text }) => text).join(""));
  }

  /** Shows all anew, tinted or not. */
  tint(on) {
    this.#tinted = on;
    this.#waiting = [];
    this.alternatives.leave();
    this.#continuation.replaceChildren();
    this.#continuation.classList.toggle("tinted", on);
    for (const [name, value] of Object.entries(LIST)) {
      if (on) this.#continuation.setAttribute(name, value);
      else this.#continuation.removeAttribute(name);
    }
    for (const part of this.parts) if (part.text) this.#waiting.push({ text: part.text, entries: part.entries });
    this.flush();
    this.alternatives.enter();
  }

  /** A caret stands where the next character will. The height stays, so that nothing below jumps while a text is replaced. */
  set writing(on) {
    this.#start.parentElement.classList.toggle("writing", on);
    const sheet = this.#start.closest(".sheet");
    if (on) sheet.style.setProperty("min-height", `${sheet.offsetHeight}px`);
    else sheet.style.removeProperty("min-height");
  }

  /** Each line is an element of its own: then it is laid out anew when characters come, and not all of the text. */
  #tint(text, entries) {
    let index = 0;
    for (const piece of text.match(/[^\n]*\n|[^\n]+/g)) {
      const line = this.#openLine();
      line.append(...[...piece].map((character) => span(character, entries?.[index++])));
    }
  }

  /** The last line, or a new one where that has come to its end. */
  #openLine() {
    const last = this.#continuation.lastElementChild;
    if (last && last.lastElementChild.textContent !== "\n") return last;
    const line = this.#continuation.appendChild(document.createElement("span"));
    line.className = "line";
    return line;
  }

  #print(text) {
    const last = this.#continuation.lastChild;
    if (last?.nodeType === Node.TEXT_NODE && last.length < PIECE) last.appendData(text);
    else if (text) this.#continuation.append(text);
  }
}

const LIST = {
  role: "listbox",
  "aria-label": "Continuation, character by character: arrow keys move, and say what else each could have been",
  "aria-orientation": "horizontal",
};
