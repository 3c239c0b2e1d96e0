// The API key that a server may ask for: kept in this tab, waited for where it is missing. Knows nothing of the page.

const NAME = "folio-api-key";

/** Tells of "wanted", when a request waits for a key ({refused}: the server did not take the one there was), "given" and "gone". */
class Key extends EventTarget {
  #value = kept();
  needed = this.#value !== null; // by the server, as far as is known
  since = 0; // performance.now() when it was given

  get value() {
    return this.#value;
  }

  give(value) {
    this.since = performance.now();
    this.#set(value);
    this.dispatchEvent(new Event("given"));
  }

  forget() {
    this.#set(null);
    this.dispatchEvent(new Event("gone"));
  }

  /** Waits for another than the one that a request was refused with, null for none. Throws when the signal aborts. */
  async another(refused, signal) {
    if (this.#value !== null && this.#value !== refused) return; // it has come meanwhile
    this.needed = true;
    if (this.#value !== null) this.forget();
    const given = new Promise((resolve, reject) => {
      this.addEventListener("given", resolve, { once: true });
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    this.dispatchEvent(Object.assign(new Event("wanted"), { refused: refused !== null }));
    await given;
  }

  #set(value) {
    this.#value = value;
    try {
      if (value === null) sessionStorage.removeItem(NAME);
      else sessionStorage.setItem(NAME, value);
    } catch {
      // Browsers can forbid it: then the key is kept as long as the page.
    }
  }
}

function kept() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

export const key = new Key();
