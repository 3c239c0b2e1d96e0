// The API key that a server may require. The browser tab stores it. Knows nothing of the page.

const NAME = "folio-api-key";

/** Dispatches "required" when a request waits for a key ({rejected}: the server rejected the stored key), "set" and "removed". */
class Key extends EventTarget {
  #value = load();
  required = this.#value !== null; // by the server, as far as is known
  setAt = 0; // performance.now() when the key was set

  get value() {
    return this.#value;
  }

  set(value) {
    this.setAt = performance.now();
    this.#store(value);
    this.dispatchEvent(new Event("set"));
  }

  remove() {
    this.#store(null);
    this.dispatchEvent(new Event("removed"));
  }

  /** Waits for a key other than the rejected one (null: the request had none). Throws when the signal aborts. */
  async waitForAnother(rejected, signal) {
    if (this.#value !== null && this.#value !== rejected) return; // set in the meantime
    this.required = true;
    if (this.#value !== null) this.remove();
    const set = new Promise((resolve, reject) => {
      this.addEventListener("set", resolve, { once: true });
      signal?.addEventListener("abort", () => reject(signal.reason), { once: true });
    });
    this.dispatchEvent(Object.assign(new Event("required"), { rejected: rejected !== null }));
    await set;
  }

  #store(value) {
    this.#value = value;
    try {
      if (value === null) sessionStorage.removeItem(NAME);
      else sessionStorage.setItem(NAME, value);
    } catch {
      // The browser forbids storage: the key lasts until the page is closed.
    }
  }
}

function load() {
  try {
    return sessionStorage.getItem(NAME);
  } catch {
    return null;
  }
}

export const key = new Key();
