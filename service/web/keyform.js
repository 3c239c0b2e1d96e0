// The form for the API key. It checks a key with the server before it stores it.

import { acceptsKey } from "./events.js";
import { key } from "./key.js";

export class KeyForm {
  #form;
  #field;

  constructor(form) {
    this.#form = form;
    this.#field = form.querySelector("input");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#check(this.#field.value.trim());
    });
  }

  /** `rejected`: the server rejected the stored key. */
  show(rejected) {
    if (!this.#form.hidden) return; // keep a more specific message
    this.#form.hidden = false;
    this.#setMessage(rejected ? "The server no longer accepts the stored key." : "This server requires an API key.");
  }

  focus() {
    this.#field.focus();
    this.#form.scrollIntoView({ block: "nearest" }); // including the message
  }

  async #check(value) {
    if (this.#form.ariaBusy === "true") return;
    this.#form.ariaBusy = "true";
    this.#setMessage("Checking the key…");
    try {
      if (await acceptsKey(value)) this.#accept(value);
      else this.#reject("The server does not accept this key.");
    } catch (error) {
      this.#reject(error.message);
    } finally {
      this.#form.ariaBusy = "false";
    }
  }

  #accept(value) {
    this.#field.value = "";
    this.#form.hidden = true;
    this.#setMessage("");
    key.set(value);
  }

  #reject(reason) {
    this.#setMessage(reason);
    this.#field.setAttribute("aria-invalid", "true");
    this.#field.select();
    this.focus();
  }

  #setMessage(message) {
    this.#form.querySelector("[role=alert]").textContent = message;
    this.#field.removeAttribute("aria-invalid");
  }
}
