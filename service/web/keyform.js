// Asks for the API key, and tries it before it is taken.

import { accepts } from "./events.js";
import { key } from "./key.js";

export class KeyForm {
  #form;
  #field;

  constructor(form) {
    this.#form = form;
    this.#field = form.querySelector("input");
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#try(this.#field.value.trim());
    });
  }

  /** `refused`: the server does not take the key that was kept. */
  ask(refused) {
    if (!this.#form.hidden) return; // it may say more already
    this.#form.hidden = false;
    this.#say(refused ? "The server no longer takes the key that this tab kept." : "This server asks for an API key.");
  }

  focus() {
    this.#field.focus();
    this.#form.scrollIntoView({ block: "nearest" }); // with what it says
  }

  async #try(value) {
    if (this.#form.ariaBusy === "true") return;
    this.#form.ariaBusy = "true";
    this.#say("Trying the key…");
    try {
      if (await accepts(value)) this.#take(value);
      else this.#again("The server does not take this key.");
    } catch (error) {
      this.#again(error.message);
    } finally {
      this.#form.ariaBusy = "false";
    }
  }

  #take(value) {
    this.#field.value = "";
    this.#form.hidden = true;
    this.#say("");
    key.give(value);
  }

  #again(why) {
    this.#say(why);
    this.#field.setAttribute("aria-invalid", "true");
    this.#field.select();
    this.focus();
  }

  #say(what) {
    this.#form.querySelector("[role=alert]").textContent = what;
    this.#field.removeAttribute("aria-invalid");
  }
}
