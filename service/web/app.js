// Folio's page: wires form, stream, text and model together. What happens when is here; how it is done, in the other files.

import { Account } from "./stats.js";
import { curl } from "./curl.js";
import { Lost, Refused, post } from "./events.js";
import { Form } from "./form.js";
import { key } from "./key.js";
import { KeyForm } from "./keyform.js";
import { Leaf } from "./text.js";
import { About, models } from "./model.js";
import { Notice, listed, marked } from "./notice.js";
import { Stream } from "./stream.js";

const $ = (id) => document.getElementById(id);

const form = new Form($("request"));
const leaf = new Leaf();
const account = new Account();
const notice = new Notice($("notice"));
const about = new About($("about"));
const keyForm = new KeyForm($("key"));
let known = []; // models
let running = null; // the Stream that is
let doing = ""; // what that is for

// --- generating

/** Starts a text. */
function generate() {
  const part = new Stream(form.body());
  follow(part, () => {
    leaf.begin(part.body.start_string, part.entries !== null);
    leaf.parts.push(part);
  });
}

/** Goes on with a text: behind its end by the state it left; behind a stop by the same request, which has more to give. */
function goOn() {
  const { last } = leaf;
  if (!last.done) return follow(last);
  const { start_string, seed, ...body } = form.body(); // the state holds where the text and its random numbers stand
  const part = new Stream({ ...body, state: last.done.state, model: last.done.model });
  return follow(part, () => leaf.parts.push(part));
}

/** Shows a part as it comes. `opened` is called once the server has taken the request: until then the text before stays. */
async function follow(part, opened = () => {}) {
  const clicked = performance.now();
  let begun = part.lastEventId !== null;
  begin(part, "Generating…");
  try {
    const whole = await part.follow((heard) => {
      if (heard.open) {
        say("Generating…");
        if (!begun) {
          opened();
          account.begin(Math.max(clicked, key.since)); // less the time it took to give a key
        }
        begun = true;
        account.open();
      } else if (heard.text) {
        leaf.write(heard.text, heard.entries);
        account.count(heard.text);
      } else {
        say(heard.loading ? LOADING : `The connection broke; trying again, ${heard.trying} of ${heard.of}…`);
      }
    });
    end();
    if (whole) finished(part);
    else say(begun ? `Stopped after ${account.characters} characters.` : "Stopped.");
  } catch (error) {
    end();
    return failed(error, part, begun, opened);
  }
  showSeed(part);
  if (form.field("tint").checked && !leaf.probable) await tint(); // asked for meanwhile
}

const LOADING = "The server is loading its models…";

function begin(stream, what) {
  running = stream;
  doing = what;
  notice.clear();
  form.blame(null);
  say(what);
  leaf.writing = true;
  buttons();
}

function end() {
  running = null;
  leaf.flush();
  leaf.writing = false;
  leaf.alternatives.enter();
  account.rest();
  buttons();
}

function finished(part) {
  const { done } = part;
  account.receive(done);
  say(`${account.characters} characters, ${ENDS[done.finish_reason] ?? done.finish_reason}.`);
  if (known.some(({ name, version }) => name === done.model && version !== done.version)) meet(); // a newer one has been published
}

function showSeed({ body, done }) {
  const seed = done?.seed ?? body.seed;
  if (seed === undefined) return; // the state's, as before
  $("seed-value").textContent = seed;
  $("seed-used").hidden = form.value("seed") === String(seed);
}

const ENDS = { length: "as many as asked for", stop: "up to a stop string", time: "then the time was up" };

// --- what goes wrong

async function failed(error, part, begun, opened) {
  say("");
  if (error.code === "unknown_characters") return unknown(error, part);
  form.blame(error.param);
  const details = { code: error.code };
  if (begun && (error instanceof Lost || error.type === "server_error")) {
    const kept = part.text ? "What had come is kept; Resume goes on from there." : "Nothing had come yet.";
    const actions = [["Resume", () => resume(part)]];
    return notice.show("The text broke off.", `${error.message} ${kept}`, { ...details, actions });
  }
  if (error instanceof Lost) {
    return notice.show("No answer.", error.message, { actions: [["Try again", () => resume(part, opened)]] });
  }
  if (error instanceof Refused) {
    return notice.show(TITLES[error.code] ?? "The server refused.", error.message, details);
  }
  notice.show("This page failed.", error.message);
  throw error; // for the console
}

const TITLES = {
  queue_full: "The server is busy.",
  rate_limited: "Too many requests.",
  too_many_open: "Too many requests at a time.",
  version_gone: "The model has been replaced.",
};

function resume(part, opened) {
  $("stop-button").focus(); // the button that had it goes
  return follow(part, opened);
}

/** Says which characters a model lacks, and where they are. */
async function unknown(error, { body }) {
  const field = error.param;
  const text = body[field] ?? "";
  form.blame(field);
  let found;
  try {
    found = (await post("vectorize", { text, ...(body.model && { model: body.model }) })).unknown;
  } catch {
    return notice.show(UNKNOWN, error.message); // the error's own words have to do
  }
  const gone = new Set(found.map(({ character }) => character));
  const remove = () => {
    form.set(field, [...text].filter((character) => !gone.has(character)).join(""));
    form.blame(null);
    notice.clear();
    form.field(field).focus();
  };
  notice.show(UNKNOWN, listed(found), { more: marked(text, found), actions: [["Take them out", remove]] });
}

const UNKNOWN = "The model does not know these characters.";

// --- tint

/** Tints the text, or not; asks for the probabilities where they are not there yet: the same seed gives the same text. */
async function tint() {
  const on = form.field("tint").checked;
  $("legend").hidden = !on;
  if (running) return leaf.probable || !on ? leaf.tint(on) : undefined; // else when it has ended
  if (on && !leaf.probable && !(await askForProbabilities())) return;
  leaf.tint(form.field("tint").checked);
}

async function askForProbabilities() {
  try {
    for (const part of leaf.parts.filter(({ probable }) => !probable)) {
      const num_generate = [...part.text].length; // however far it came
      const again = new Stream({ ...part.body, num_generate, logprobs: 5, return_state: false });
      begin(again, "Asking for the probabilities…");
      if (!(await again.follow(() => {}))) return false;
      if (again.text !== part.text) throw new Error("The server gives another text for this request now: its model has changed since.");
      part.entries = again.entries;
    }
    say("");
    return true;
  } catch (error) {
    notice.show("The probabilities can't be shown.", error.message, { code: error.code });
    say("");
    return false;
  } finally {
    if (running) end();
  }
}

// --- the API key

key.addEventListener("wanted", ({ refused }) => {
  keyForm.ask(refused);
  if (running) say("Waiting for the key…");
  if (!known.length) about.say("The server tells of its models once it has a key.");
  if (running || !document.activeElement?.matches("input, select, textarea")) keyForm.focus(); // nobody is torn from their typing
});
key.addEventListener("given", () => {
  if (running) say(doing);
  if (!known.length) about.say("Asking the server for its models…");
  showForgetting();
  $(running ? "stop-button" : "start_string").focus(); // the field that had it goes
});
key.addEventListener("gone", showForgetting);
$("forget-key").addEventListener("click", () => {
  key.forget();
  meet(); // asks for another
});

function showForgetting() {
  $("key-kept").hidden = key.value === null;
}

// --- copying

async function copy(text, what) {
  $("by-hand").hidden = true;
  try {
    await navigator.clipboard.writeText(text);
    say(`${what} copied.`);
  } catch {
    // Not there over plain HTTP from another machine, or not allowed.
    const area = $("by-hand").querySelector("textarea");
    area.value = text;
    $("by-hand").hidden = false;
    area.select();
  }
}

/** The request whose answer is shown; before there is one, what Generate would send. */
const request = () => leaf.last?.body ?? form.body();

// --- the page's state

const say = (text) => ($("status").textContent = text);

function buttons() {
  $("generate").setAttribute("aria-disabled", String(running !== null));
  $("stop-button").setAttribute("aria-disabled", String(running === null));
  $("continue").hidden = running !== null || !leaf.last;
  $("copy-text").hidden = !leaf.last;
}

async function meet() {
  try {
    known = await models((why) => about.say(why));
    form.models(known);
    introduce();
  } catch (error) {
    about.say(error.message);
  }
}

function introduce() {
  const model = known.find(({ name }) => name === form.value("model"));
  if (!model) return;
  about.show(model);
  form.suggest("start_string", model.start_string);
}

$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  if (!running) generate();
});
$("start_string").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("request").requestSubmit();
});
$("stop-button").addEventListener("click", () => running?.stop());
$("continue").addEventListener("click", () => {
  $("stop-button").focus();
  goOn();
});
addEventListener("hashchange", () => {
  introduce(); // the form's listener comes first: it holds other settings now
  tint();
});
$("tint").addEventListener("change", tint);
$("model").addEventListener("change", introduce);
$("copy-text").addEventListener("click", () => copy(leaf.text, "Text"));
$("copy-curl").addEventListener("click", () => copy(curl("generate", request()), "Command"));
$("keep-seed").addEventListener("click", () => {
  form.set("seed", $("seed-value").textContent);
  $("seed-used").hidden = true;
  $("seed").focus();
});
$("settings").open = matchMedia("(min-width: 60rem)").matches; // on a phone the text comes first

leaf.tint(form.field("tint").checked);
$("legend").hidden = !form.field("tint").checked;
showForgetting();
meet();
