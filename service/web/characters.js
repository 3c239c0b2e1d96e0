// A character with the probability it was given: as an element, and in words.

const LEVELS = [0.5, 0.2, 0.05, 0.01]; // the legend's bounds
const NAMES = { " ": "space", "\n": "line end", "\t": "tab", "\u00a0": "no-break space", "\u2028": "line separator" };
const SIGNS = { " ": "␣", "\n": "↵", "\t": "⇥", "\u00a0": "⍽", "\u2028": "↓" };
const NO_GLYPH = /^[\p{C}\p{M}\p{Z}]$/u;

const entries = new WeakMap(); // of elements

export const entryOf = (element) => entries.get(element);

/** `entry` is a logprobs entry of the server's. */
export function span(character, entry) {
  const element = document.createElement("span");
  element.textContent = character;
  element.setAttribute("role", "option");
  if (sign(character) !== character) element.setAttribute("aria-label", spoken(character)); // no glyph says it
  if (entry) {
    entries.set(element, entry);
    element.className = `p${level(entry.logprob)}`;
  }
  if (character === "\n") element.classList.add("line-end");
  return element;
}

function level(logprob) {
  const probability = Math.exp(logprob);
  const at = LEVELS.findIndex((bound) => probability >= bound);
  return at === -1 ? LEVELS.length : at;
}

const codePoint = (character) => `U+${character.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}`;

/** Something to see, whatever the character. */
export const sign = (character) => SIGNS[character] ?? (NO_GLYPH.test(character) ? codePoint(character) : character);

/** Something to say. */
export const spoken = (character) => NAMES[character] ?? (NO_GLYPH.test(character) ? codePoint(character) : character);

/** Something to find it by in a text. */
export const named = (character) => [...new Set([sign(character), NAMES[character] ?? codePoint(character)])].join("\u00a0");

export function percent(logprob) {
  const value = Math.exp(logprob) * 100;
  if (value < 0.01) return "< 0.01 %";
  return `${value.toFixed(value >= 9.95 ? 0 : value >= 0.995 ? 1 : 2)} %`;
}

export function described({ character, logprob, likeliest }) {
  const others = likeliest.filter((other) => other.character !== character);
  const list = others.map((other) => `${spoken(other.character)} ${percent(other.logprob)}`).join(", ");
  return `${spoken(character)}, ${percent(logprob)}${list && `; instead: ${list}`}`;
}
