// What went wrong, said where it is seen and heard, with what can be done about it.

import { named, sign } from "./characters.js";

const AROUND = 24; // characters of a text shown on either side of one that is unknown

export class Notice {
  #element;

  constructor(element) {
    this.#element = element;
  }

  /** `actions` are [label, what to do]; a node in `more` goes before them. */
  show(title, message, { code = null, more = null, actions = [] } = {}) {
    const text = paragraph(message);
    if (code) text.append(" ", tagged("code", code));
    const children = [tagged("strong", title), text];
    if (more) children.push(more);
    children.push(buttons([...actions, ["Dismiss", () => this.clear()]]));
    this.#element.replaceChildren(...children);
    this.#element.hidden = false;
    this.#element.scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.#element.hidden = true;
    this.#element.replaceChildren();
  }
}

/** Characters by name, each with how often it is there; `unknown` is [{character, position}]. */
export function listed(unknown) {
  const times = new Map();
  for (const { character } of unknown) times.set(character, (times.get(character) ?? 0) + 1);
  return [...times].map(([character, count]) => named(character) + (count > 1 ? `, ${count} times` : "")).join("; ");
}

/** What is round these characters in a text, with them marked; positions are in code points. */
export function marked(text, unknown) {
  const excerpt = document.createElement("p");
  excerpt.className = "script marked";
  const characters = [...text];
  const positions = new Set(unknown.map(({ position }) => position));
  const near = new Uint8Array(characters.length);
  for (const position of positions) near.fill(1, Math.max(0, position - AROUND), position + AROUND + 1);
  characters.forEach((character, index) => {
    if (near[index]) excerpt.append(positions.has(index) ? tagged("mark", sign(character)) : character);
    else if (near[index - 1] || index === 0) excerpt.append(" … ");
  });
  excerpt.normalize();
  return excerpt;
}

function buttons(actions) {
  const row = document.createElement("div");
  row.className = "actions";
  for (const [label, act] of actions) {
    const button = row.appendChild(tagged("button", label));
    button.type = "button";
    button.addEventListener("click", act);
  }
  return row;
}

function tagged(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

const paragraph = (text) => tagged("p", text);
