// A card with the alternatives of a character in the tinted text. It is beside the character under the pointer or with the focus.

import { describe, entryOf, glyph, percent } from "./characters.js";

export class Alternatives {
  #text; // its children are lines, and their children are characters
  #card;
  #tabStop = null; // the only character that the tab key reaches
  #shown = null;

  constructor(text, card) {
    this.#text = text;
    this.#card = card;
    // Not pointerover: that event also occurs when a key scrolls the text under a resting pointer.
    text.addEventListener("pointermove", (event) => event.target !== this.#shown && this.#show(event.target));
    text.addEventListener("pointerleave", () => this.#show(document.activeElement === this.#tabStop ? this.#tabStop : null));
    text.addEventListener("click", (event) => entryOf(event.target) && this.#moveTo(event.target));
    text.addEventListener("focusin", (event) => this.#show(event.target));
    text.addEventListener("focusout", () => this.#show(null));
    text.addEventListener("keydown", (event) => this.#onKey(event));
    addEventListener("keydown", (event) => event.key === "Escape" && this.#show(null)); // also for a character under the pointer
    addEventListener("resize", () => this.#show(null));
  }

  /** Makes the first character of a new text the tab stop. */
  enable() {
    const first = this.#text.firstElementChild?.firstElementChild;
    if (!this.#tabStop && first) this.#setTabStop(first);
  }

  /** Call it before the text is replaced. */
  reset() {
    this.#show(null);
    this.#tabStop = null;
  }

  /** There is one tab stop: with thousands, a keyboard user could not get past the text. */
  #setTabStop(character) {
    this.#tabStop?.removeAttribute("tabindex");
    this.#tabStop?.removeAttribute("aria-selected");
    this.#tabStop = character;
    character.tabIndex = 0;
    character.setAttribute("aria-selected", "true");
    const entry = entryOf(character);
    if (entry) character.setAttribute("aria-label", describe(entry));
  }

  #moveTo(character) {
    this.#setTabStop(character);
    character.focus({ preventScroll: true });
    character.scrollIntoView({ block: "nearest" });
  }

  #onKey(event) {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const target = {
      ArrowRight: () => next(this.#tabStop),
      ArrowLeft: () => previous(this.#tabStop),
      ArrowDown: () => inNeighbouringLine(this.#tabStop, next),
      ArrowUp: () => inNeighbouringLine(this.#tabStop, previous),
      Home: () => this.#text.firstElementChild.firstElementChild,
      End: () => this.#text.lastElementChild.lastElementChild,
    }[event.key];
    if (!target || !this.#tabStop) return;
    event.preventDefault();
    const character = target();
    if (character) this.#moveTo(character);
  }

  /** Shows the card of a character. Hides the card if the element is null or has no entry. */
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

  /** Places the card above the character, or below if there is no room above. Keeps it within the sheet's width. */
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

/** The first box of an element: a line break has a second one, at the start of the next line. */
const box = (element) => element.getClientRects()[0] ?? element.getBoundingClientRect();
const middle = (rectangle) => rectangle.left + rectangle.width / 2;

const next = (character) =>
  character.nextElementSibling ?? character.parentElement.nextElementSibling?.firstElementChild ?? null;
const previous = (character) =>
  character.previousElementSibling ?? character.parentElement.previousElementSibling?.lastElementChild ?? null;

/** The horizontally nearest character in the next visual line. `advance` is `next`, or `previous` for the line before. */
function inNeighbouringLine(from, advance) {
  const start = box(from);
  let best = null;
  let line = null;
  for (let character = advance(from); character; character = advance(character)) {
    const place = box(character);
    if (overlap(place, start)) continue;
    line ??= place;
    if (!overlap(place, line)) break;
    const distance = Math.abs(middle(place) - middle(start));
    if (!best || distance < best.distance) best = { character, distance };
  }
  return best?.character ?? null;
}

const overlap = (a, b) => a.top < (b.top + b.bottom) / 2 && a.bottom > (b.top + b.bottom) / 2;

function columns({ character, logprob, likeliest }) {
  const all = likeliest.some((other) => other.character === character) ? likeliest : [...likeliest, { character, logprob }];
  return all.map((other) => column(other, other.character === character));
}

function column({ character, logprob }, sampled) {
  const element = document.createElement("div");
  element.className = sampled ? "alternative sampled" : "alternative";
  const bar = element.appendChild(document.createElement("span"));
  bar.className = "bar";
  bar.style.setProperty("--share", Math.exp(logprob).toFixed(4));
  element.appendChild(document.createElement("b")).textContent = glyph(character);
  element.appendChild(document.createElement("span")).textContent = percent(logprob);
  return element;
}
