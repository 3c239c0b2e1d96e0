// What a character of the tinted text could have been instead: a card beside the one that is pointed at or has the focus.

import { described, entryOf, percent, sign } from "./characters.js";

export class Alternatives {
  #text; // element whose children are lines, whose children are the characters
  #card;
  #current = null; // the one character that the tab key reaches
  #shown = null;

  constructor(text, card) {
    this.#text = text;
    this.#card = card;
    // Not pointerover: it comes too when a key scrolls the text under a pointer that rests.
    text.addEventListener("pointermove", (event) => event.target !== this.#shown && this.#show(event.target));
    text.addEventListener("pointerleave", () => this.#show(document.activeElement === this.#current ? this.#current : null));
    text.addEventListener("click", (event) => entryOf(event.target) && this.#move(event.target));
    text.addEventListener("focusin", (event) => this.#show(event.target));
    text.addEventListener("focusout", () => this.#show(null));
    text.addEventListener("keydown", (event) => this.#key(event));
    addEventListener("keydown", (event) => event.key === "Escape" && this.#show(null)); // also of one pointed at
    addEventListener("resize", () => this.#show(null));
  }

  /** The text has come: its first character can be reached. */
  enter() {
    const first = this.#text.firstElementChild?.firstElementChild;
    if (!this.#current && first) this.#reach(first);
  }

  /** The text is going. */
  leave() {
    this.#show(null);
    this.#current = null;
  }

  /** A tab stop that moves: thousands would keep a keyboard from ever getting past the text. */
  #reach(character) {
    this.#current?.removeAttribute("tabindex");
    this.#current?.removeAttribute("aria-selected");
    this.#current = character;
    character.tabIndex = 0;
    character.setAttribute("aria-selected", "true");
    const entry = entryOf(character);
    if (entry) character.setAttribute("aria-label", described(entry));
  }

  #move(character) {
    this.#reach(character);
    character.focus({ preventScroll: true });
    character.scrollIntoView({ block: "nearest" });
  }

  #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const to = {
      ArrowRight: () => after(this.#current),
      ArrowLeft: () => before(this.#current),
      ArrowDown: () => inNextLine(this.#current, after),
      ArrowUp: () => inNextLine(this.#current, before),
      Home: () => this.#text.firstElementChild.firstElementChild,
      End: () => this.#text.lastElementChild.lastElementChild,
    }[event.key];
    if (!to || !this.#current) return;
    event.preventDefault();
    const character = to();
    if (character) this.#move(character);
  }

  /** The card of this character; none for null, or for something else. */
  #show(element) {
    const character = element && entryOf(element) ? element : null;
    this.#shown?.classList.remove("shown");
    this.#shown = character;
    this.#card.hidden = !character;
    if (!character) return;
    character.classList.add("shown");
    this.#card.replaceChildren(...columns(entryOf(character)));
    this.#place(box(character));
  }

  /** Above the character, or below where the window ends; never beyond the sheet's sides. */
  #place(character) {
    const sheet = this.#card.offsetParent.getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.#card;
    const above = character.top - height - GAP;
    const top = above >= 0 ? above : character.bottom + GAP;
    const left = Math.min(Math.max(middle(character) - width / 2, sheet.left), sheet.right - width);
    this.#card.style.setProperty("left", `${left - sheet.left}px`);
    this.#card.style.setProperty("top", `${top - sheet.top}px`);
  }
}

const GAP = 8; // pixels

/** A line end has a second box, at the start of the next line. */
const box = (element) => element.getClientRects()[0] ?? element.getBoundingClientRect();
const middle = (rectangle) => rectangle.left + rectangle.width / 2;

const after = (character) =>
  character.nextElementSibling ?? character.parentElement.nextElementSibling?.firstElementChild ?? null;
const before = (character) =>
  character.previousElementSibling ?? character.parentElement.previousElementSibling?.lastElementChild ?? null;

/** The character that stands nearest in the next line that there is to see, after or before. */
function inNextLine(from, next) {
  const start = box(from);
  let best = null;
  let line = null;
  for (let one = next(from); one; one = next(one)) {
    const here = box(one);
    if (overlap(here, start)) continue;
    line ??= here;
    if (!overlap(here, line)) break;
    const distance = Math.abs(middle(here) - middle(start));
    if (!best || distance < best.distance) best = { one, distance };
  }
  return best?.one ?? null;
}

const overlap = (a, b) => a.top < (b.top + b.bottom) / 2 && a.bottom > (b.top + b.bottom) / 2;

function columns({ character, logprob, likeliest }) {
  const all = likeliest.some((other) => other.character === character) ? likeliest : [...likeliest, { character, logprob }];
  return all.map((other) => column(other, other.character === character));
}

function column({ character, logprob }, drawn) {
  const element = document.createElement("div");
  element.className = drawn ? "alternative drawn" : "alternative";
  const bar = element.appendChild(document.createElement("span"));
  bar.className = "bar";
  bar.style.setProperty("--share", Math.exp(logprob).toFixed(4));
  element.appendChild(document.createElement("b")).textContent = sign(character);
  element.appendChild(document.createElement("span")).textContent = percent(logprob);
  return element;
}
