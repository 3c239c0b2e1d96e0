// Folio's page: connects the form, the stream, the text and the model. This file decides what happens; the others implement it.

import { curl } from "./curl.js";
import { ApiError, ConnectionLost, post } from "./events.js";
import { Form } from "./form.js";
import { key } from "./key.js";
import { KeyForm } from "./keyform.js";
import { About, listModels } from "./model.js";
import { Notice, listCharacters, markCharacters } from "./notice.js";
import { Stats } from "./stats.js";
import { Stream } from "./stream.js";
import { TextView } from "./text.js";

const $ = (id) => document.getElementById(id);

const form = new Form($("request"));
const view = new TextView();
const stats = new Stats();
const notice = new Notice($("notice"));
const about = new About($("about"));
const keyForm = new KeyForm($("key"));
let models = [];
let running = null; // the open Stream
let activity = ""; // its status message

// --- generating

/** Starts a new text. */
function generate() {
  const part = new Stream(form.body());
  follow(part, () => {
    view.start(part.body.start_string, part.entries !== null);
    view.parts.push(part);
  });
}

/** Continues the text: from its state token if it is complete, else by resuming its stream. */
function continueText() {
  const { last } = view;
  if (!last.done) return follow(last);
  const { start_string, seed, ...body } = form.body(); // the state token replaces both
  const part = new Stream({ ...body, state: last.done.state, model: last.done.model });
  return follow(part, () => view.parts.push(part));
}

/** Shows a part while it arrives. `onOpen` is called when the server accepts the request; until then the old text stays. */
async function follow(part, onOpen = () => {}) {
  const startedAt = performance.now();
  let opened = part.lastEventId !== null;
  begin(part, "Generating…");
  try {
    const complete = await part.follow((event) => {
      if (event.open) {
        setStatus("Generating…");
        if (!opened) {
          onOpen();
          stats.start(Math.max(startedAt, key.setAt)); // excludes the time the user took to enter a key
        }
        opened = true;
        stats.connected();
      } else if (event.text) {
        view.write(event.text, event.entries);
        stats.count(event.text);
      } else {
        setStatus(event.loading ? LOADING : `Connection lost. Retrying (${event.retry} of ${event.of})…`);
      }
    });
    end();
    if (complete) showResult(part);
    else setStatus(opened ? `Stopped after ${stats.characters} characters.` : "Stopped.");
  } catch (error) {
    end();
    return showError(error, part, opened, onOpen);
  }
  showSeed(part);
  if (form.field("tint").checked && !view.hasProbabilities) await applyTint(); // switched on while the text arrived
}

const LOADING = "The server is loading its models…";

function begin(stream, message) {
  running = stream;
  activity = message;
  notice.clear();
  form.markInvalid(null);
  setStatus(message);
  view.writing = true;
  updateButtons();
}

function end() {
  running = null;
  view.flush();
  view.writing = false;
  view.alternatives.enable();
  stats.flush();
  updateButtons();
}

function showResult({ done }) {
  stats.showReceipt(done);
  setStatus(`${stats.characters} characters: ${REASONS[done.finish_reason] ?? done.finish_reason}.`);
  const replaced = models.some(({ name, version }) => name === done.model && version !== done.version);
  if (replaced) loadModels();
}

const REASONS = { length: "requested length reached", stop: "stop string reached", time: "time limit reached" };

function showSeed({ body, done }) {
  const seed = done?.seed ?? body.seed;
  if (seed === undefined) return; // the state token contains it; the page shows it already
  $("seed-value").textContent = seed;
  $("seed-used").hidden = form.value("seed") === String(seed);
}

// --- errors

async function showError(error, part, opened, onOpen) {
  setStatus("");
  if (error.code === "unknown_characters") return showUnknownCharacters(error, part);
  form.markInvalid(error.param);
  const { code } = error;
  if (opened && (error instanceof ConnectionLost || error.type === "server_error")) {
    const kept = part.text ? "The text so far is kept; Resume continues it." : "No text has arrived yet.";
    const actions = [["Resume", () => resume(part)]];
    return notice.show("The text was interrupted.", `${error.message.replace(/\.?$/, ".")} ${kept}`, { code, actions });
  }
  if (error instanceof ConnectionLost) {
    return notice.show("No answer.", error.message, { actions: [["Try again", () => resume(part, onOpen)]] });
  }
  if (error instanceof ApiError) {
    return notice.show(TITLES[code] ?? "The server rejected the request.", error.message, { code });
  }
  notice.show("This page failed.", error.message);
  throw error; // for the console
}

const TITLES = {
  queue_full: "The server is busy.",
  rate_limited: "Too many requests.",
  too_many_open: "Too many open requests.",
  version_gone: "The model has been replaced.",
};

function resume(part, onOpen) {
  $("stop-button").focus(); // the focused button disappears
  return follow(part, onOpen);
}

/** Shows which characters the model does not know, and where they are. */
async function showUnknownCharacters(error, { body }) {
  const field = error.param;
  const text = body[field] ?? "";
  form.markInvalid(field);
  let unknown;
  try {
    ({ unknown } = await post("vectorize", { text, ...(body.model && { model: body.model }) }));
  } catch {
    return notice.show(UNKNOWN, error.message);
  }
  const toRemove = new Set(unknown.map(({ character }) => character));
  const remove = () => {
    form.set(field, [...text].filter((character) => !toRemove.has(character)).join(""));
    form.markInvalid(null);
    notice.clear();
    form.field(field).focus();
  };
  const details = markCharacters(text, unknown);
  notice.show(UNKNOWN, listCharacters(unknown), { details, actions: [["Remove them", remove]] });
}

const UNKNOWN = "The model does not know these characters.";

// --- tint

/** Tints the text or removes the tint. Requests missing probabilities: the same seed gives the same text. */
async function applyTint() {
  const on = form.field("tint").checked;
  $("legend").hidden = !on;
  if (running) return view.hasProbabilities || !on ? view.tint(on) : undefined; // `follow` applies the tint at the end
  if (on && !view.hasProbabilities && !(await loadProbabilities())) return;
  view.tint(form.field("tint").checked);
}

async function loadProbabilities() {
  try {
    for (const part of view.parts.filter(({ hasProbabilities }) => !hasProbabilities)) {
      const num_generate = [...part.text].length; // the part may have been stopped
      const repeated = new Stream({ ...part.body, num_generate, logprobs: 5, return_state: false });
      begin(repeated, "Loading the probabilities…");
      if (!(await repeated.follow(() => {}))) return false;
      if (repeated.text !== part.text) throw new Error("The server now gives a different text for this request: its model has changed.");
      part.entries = repeated.entries;
    }
    setStatus("");
    return true;
  } catch (error) {
    notice.show("The probabilities are not available.", error.message, { code: error.code });
    setStatus("");
    return false;
  } finally {
    if (running) end();
  }
}

// --- the API key

key.addEventListener("required", ({ rejected }) => {
  keyForm.show(rejected);
  if (running) setStatus("Waiting for an API key…");
  if (!models.length) about.setStatus("The list of models requires an API key.");
  if (running || !document.activeElement?.matches("input, select, textarea")) keyForm.focus(); // does not interrupt typing
});
key.addEventListener("set", () => {
  if (running) setStatus(activity);
  if (!models.length) about.setStatus("Loading the list of models…");
  updateKeyNote();
  $(running ? "stop-button" : "start_string").focus(); // the focused field disappears
});
key.addEventListener("removed", updateKeyNote);
$("remove-key").addEventListener("click", () => {
  key.remove();
  loadModels(); // which requires a key
});

function updateKeyNote() {
  $("key-stored").hidden = key.value === null;
}

// --- copying

async function copy(text, label) {
  $("by-hand").hidden = true;
  try {
    await navigator.clipboard.writeText(text);
    setStatus(`${label} copied.`);
  } catch {
    // There is no clipboard over plain HTTP from another machine, or the browser denies access.
    const area = $("by-hand").querySelector("textarea");
    area.value = text;
    $("by-hand").hidden = false;
    area.select();
  }
}

/** The body of the request shown. Before the first one, the body that Generate would send. */
const shownBody = () => view.last?.body ?? form.body();

// --- the page's state

const setStatus = (text) => ($("status").textContent = text);

function updateButtons() {
  $("generate").setAttribute("aria-disabled", String(running !== null));
  $("stop-button").setAttribute("aria-disabled", String(running === null));
  $("continue").hidden = running !== null || !view.last;
  $("copy-text").hidden = !view.last;
}

async function loadModels() {
  try {
    models = await listModels((reason) => about.setStatus(reason));
    form.setModels(models);
    showModel();
  } catch (error) {
    about.setStatus(error.message);
  }
}

function showModel() {
  const model = models.find(({ name }) => name === form.value("model"));
  if (!model) return;
  about.show(model);
  form.setDefault("start_string", model.start_string);
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
  continueText();
});
addEventListener("hashchange", () => {
  showModel(); // the form's own listener has restored the settings before
  applyTint();
});
$("tint").addEventListener("change", applyTint);
$("model").addEventListener("change", showModel);
$("copy-text").addEventListener("click", () => copy(view.text, "Text"));
$("copy-curl").addEventListener("click", () => copy(curl("generate", shownBody()), "Command"));
$("keep-seed").addEventListener("click", () => {
  form.set("seed", $("seed-value").textContent);
  $("seed-used").hidden = true;
  $("seed").focus();
});
$("settings").open = matchMedia("(min-width: 60rem)").matches; // closed on a phone, so that the text is in view

view.tint(form.field("tint").checked);
$("legend").hidden = !form.field("tint").checked;
updateKeyNote();
loadModels();
