// A character and its probability, as an element and in words.

const LEVELS = [0.5, 0.2, 0.05, 0.01]; // lower bounds of the legend's levels
const NAMES = { " ": "space", "\n": "line break", "\t": "tab", "\u00a0": "no-break space", "\u2028": "line separator" };
const GLYPHS = { " ": "␣", "\n": "↵", "\t": "⇥", "\u00a0": "⍽", "\u2028": "↓" };
const NO_GLYPH = /^[\p{C}\p{M}\p{Z}]$/u;

const entries = new WeakMap(); // by element

export const entryOf = (element) => entries.get(element);

/** The element of a character. `entry` is its item of the server's logprobs. */
export function characterElement(character, entry) {
  const element = document.createElement("span");
  element.textContent = character;
  element.setAttribute("role", "option");
  if (glyph(character) !== character) element.setAttribute("aria-label", spokenName(character));
  if (entry) {
    entries.set(element, entry);
    element.className = `p${level(entry.logprob)}`;
  }
  if (character === "\n") element.classList.add("line-end");
  return element;
}

function level(logprob) {
  const probability = Math.exp(logprob);
  const index = LEVELS.findIndex((bound) => probability >= bound);
  return index === -1 ? LEVELS.length : index;
}

const codePoint = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** A visible form of any character. */
export const glyph = (character) => GLYPHS[character] ?? (NO_GLYPH.test(character) ? codePoint(character) : character);

/** A form of any character that a screen reader can say. */
export const spokenName = (character) => NAMES[character] ?? (NO_GLYPH.test(character) ? codePoint(character) : character);

/** The glyph with the name or code point. */
export const fullName = (character) => [...new Set([glyph(character), NAMES[character] ?? codePoint(character)])].join("\u00a0");

export function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  if (value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value >= 9.95 ? 0 : value >= 0.995 ? 1 : 2)} %`;
}

/** An entry in words: the character, its probability and its alternatives. */
export function describe({ character, logprob, likeliest }) {
  const others = likeliest.filter((other) => other.character !== character);
  const list = others.map((other) => `${spokenName(other.character)} ${percent(other.logprob)}`).join(", ");
  return `${spokenName(character)}, ${percent(logprob)}${list && `; alternatives: ${list}`}`;
}
