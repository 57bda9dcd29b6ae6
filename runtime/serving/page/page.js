// The page: what happens when somebody generates, cancels, looks back, or drops a picture.

import { byId, element } from "./elements.js";
import { History } from "./history.js";
import { offerOf } from "./offer.js";
import { watchReadiness } from "./readiness.js";
import { checked } from "./report_check.js";
import { RequestForm } from "./request_form.js";
import { Server, ServerError } from "./server.js";
import { shotOf, withheldShot } from "./shot.js";
import { shotView } from "./shot_view.js";
import { verdictOf } from "./verdict.js";

const server = new Server();
const history = new History(byId("history"), show);
let ready = false;
let offered = ""; // the server's offer, as JSON
let form = null; // a RequestForm, once the server has said what it offers
let running = null; // the AbortController of the request in progress

async function onReadiness(readiness) {
  ready = readiness.ready;
  byId("banner").replaceChildren(
    ...(ready ? [] : [element("p", {}, `The server is not ready: ${readiness.why} This page goes on by itself once it is.`)]),
  );
  if (ready) await readOffer();
  setButtons();
}

/** Fill the form, unless the server offers what it offered before: then what was filled in stays. */
async function readOffer() {
  try {
    const models = await server.models();
    byId("key").hidden = true;
    if (JSON.stringify(models) === offered) return;
    offered = JSON.stringify(models);
    const offer = offerOf(models);
    form = new RequestForm(offer);
    byId("offer").textContent = offer.summary;
  } catch (error) {
    if (error.status === 401) askForKey(error);
    else byId("error").textContent = error.message;
  }
}

function askForKey(error) {
  byId("key").hidden = false;
  byId("key-error").textContent = server.key ? error.message : "";
  byId("key-value").focus();
}

async function generate() {
  running = new AbortController();
  begin();
  try {
    keep(shotOf(await server.generate(form.body, onProgress, running.signal)));
  } catch (error) {
    const shot = withheldShot(error);
    if (shot) keep(shot);
    else fail(error);
  } finally {
    end();
  }
}

function keep(shot) {
  history.add(shot);
  byId("history-section").hidden = false;
  show(shot);
}

function begin() {
  byId("error").textContent = "";
  byId("progress").hidden = false;
  byId("progress-bar").removeAttribute("value");
  byId("progress-text").textContent = "Waiting for the server";
  setButtons();
  if (document.activeElement === byId("generate") || document.activeElement === document.body)
    byId("cancel").focus({ preventScroll: true });
}

function end() {
  const wasOnCancel = document.activeElement === byId("cancel");
  running = null;
  byId("progress").hidden = true;
  setButtons();
  if (wasOnCancel) byId("generate").focus({ preventScroll: true });
}

function setButtons() {
  byId("generate").disabled = !ready || !form || running !== null;
  byId("cancel").disabled = running === null;
}

function onProgress(done, steps) {
  Object.assign(byId("progress-bar"), { max: steps, value: done });
  byId("progress-text").textContent = `Step ${done} of ${steps}`;
}

function fail(error) {
  const cancelled = error.name === "AbortError";
  byId("error").textContent = cancelled ? "" : error.message;
  byId("announcement").textContent = cancelled ? "Cancelled." : "";
}

function show(shot) {
  byId("shot").replaceChildren(shotView(shot));
  const results = byId("results");
  if (results.getBoundingClientRect().top > window.innerHeight / 2) results.scrollIntoView(); // on a phone it is below the form
  const { title, text } = verdictOf(shot.report);
  byId("announcement").textContent = `${title}. ${text}`;
}

async function check(file) {
  if (!file) return;
  let found;
  try {
    found = await checked(server, file);
  } catch (error) {
    const text = error instanceof ServerError ? error.message : `The report of ${file.name} cannot be read.`;
    found = { kind: "bad", text, views: [] };
  }
  byId("checked").replaceChildren(...found.views);
  Object.assign(byId("check-note"), { className: `note ${found.kind}`, textContent: found.text });
}

function listen() {
  byId("request").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!byId("generate").disabled) generate();
  });
  byId("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) byId("request").requestSubmit();
  });
  byId("cancel").addEventListener("click", () => running?.abort());
  byId("key").addEventListener("submit", async (event) => {
    event.preventDefault();
    server.key = byId("key-value").value;
    await readOffer();
    setButtons();
  });
  document.addEventListener("click", (event) => {
    const seed = event.target.closest("[data-seed]")?.dataset.seed;
    if (seed) byId("seed").value = seed;
  });
  byId("file").addEventListener("change", (event) => check(event.target.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) byId("drop").addEventListener(name, onDrag);
}

function onDrag(event) {
  event.preventDefault();
  byId("drop").classList.toggle("over", event.type === "dragover");
  if (event.type === "drop") check(event.dataTransfer.files[0]);
}

listen();
watchReadiness(server, onReadiness);
