// Error messages: what went wrong, and buttons for what the user can do about it.

import { fullName, glyph } from "./characters.js";

const CONTEXT = 24; // characters shown on either side of an unknown one

export class Notice {
  #element;

  constructor(element) {
    this.#element = element;
  }

  /** `actions` are pairs of label and function. `details` is a node shown before the buttons. */
  show(title, message, { code = null, details = null, actions = [] } = {}) {
    const text = paragraph(message);
    if (code) text.append(" ", textElement("code", code));
    const children = [textElement("strong", title), text];
    if (details) children.push(details);
    children.push(buttonRow([...actions, ["Dismiss", () => this.clear()]]));
    this.#element.replaceChildren(...children);
    this.#element.hidden = false;
    this.#element.scrollIntoView({ block: "nearest" });
  }

  clear() {
    this.#element.hidden = true;
    this.#element.replaceChildren();
  }
}

/** Names each unknown character with its number of occurrences. `unknown` is [{character, position}]. */
export function listCharacters(unknown) {
  const counts = new Map();
  for (const { character } of unknown) counts.set(character, (counts.get(character) ?? 0) + 1);
  return [...counts].map(([character, count]) => fullName(character) + (count > 1 ? `, ${count} times` : "")).join("; ");
}

/** Excerpts of a text around its unknown characters, which are marked. Positions are in code points. */
export function markCharacters(text, unknown) {
  const excerpt = document.createElement("p");
  excerpt.className = "script marked";
  const characters = [...text];
  const positions = new Set(unknown.map(({ position }) => position));
  const near = new Uint8Array(characters.length);
  for (const position of positions) near.fill(1, Math.max(0, position - CONTEXT), position + CONTEXT + 1);
  characters.forEach((character, index) => {
    if (near[index]) excerpt.append(positions.has(index) ? textElement("mark", glyph(character)) : character);
    else if (near[index - 1] || index === 0) excerpt.append(" … ");
  });
  excerpt.normalize();
  return excerpt;
}

function buttonRow(actions) {
  const row = document.createElement("div");
  row.className = "actions";
  for (const [label, action] of actions) {
    const button = row.appendChild(textElement("button", label));
    button.type = "button";
    button.addEventListener("click", action);
  }
  return row;
}

function textElement(name, text) {
  const element = document.createElement(name);
  element.textContent = text;
  return element;
}

const paragraph = (text) => textElement("p", text);
