// The form: controls within what the server offers, and the request that they ask for.

import { byId, element } from "./elements.js";
import { PolicyControls } from "./policy_controls.js";

const STEPS = 25;
const GUIDANCE = 7.5;
// By option: its label, the words in the order of the choices, and the server's own word; "" leaves it to the server.
const MODES = {
  on_unsafe: ["An unsafe picture is", { redirect: "redirected", refuse: "withheld", monitor: "only reported" }, "redirect"],
  on_still_unsafe: ["If still unsafe, it is", { withhold: "withheld", deliver: "shown" }, "withhold"],
  check: [
    "The guard looks",
    { "": "as built", before: "before each step", auto: "as suits the steps", beside: "beside each step" },
    "",
  ],
};

export class RequestForm {
  #form = byId("request");
  #policies;
  #modes;

  /** Fill the controls from an offer; see offer.js. */
  constructor(offer) {
    range(this.#control("num_inference_steps"), ...offer.steps, STEPS);
    range(this.#control("guidance_scale"), 0, offer.most_guidance_scale, GUIDANCE);
    options(this.#control("scheduler"), { "": "default", ...named(offer.samplers) }, "");
    options(this.#control("size"), named(offer.sizes), offer.sizes[0]);
    this.#policies = new PolicyControls(byId("concepts"), offer.concepts);
    this.#modes = Object.keys(MODES).flatMap((name) => mode(name, offer.words[name]));
    byId("modes").replaceChildren(...this.#modes.map(({ view }) => view));
    byId("compare-field").hidden = !offer.unguarded;
    byId("compare").checked = offer.unguarded;
  }

  /** The body of POST /v1/images/generations. What is at the server's own value is left out. */
  get body() {
    const text = (name) => this.#control(name).value;
    const chosen = this.#modes
      .filter(({ select, given }) => select.value !== given)
      .map(({ name, select }) => [name, select.value]);
    return {
      prompt: text("prompt"),
      ...(text("negative_prompt") && { negative_prompt: text("negative_prompt") }),
      ...(text("seed") && { seed: Number(text("seed")) }),
      num_inference_steps: Number(text("num_inference_steps")),
      ...(text("scheduler") && { scheduler: text("scheduler") }),
      guidance_scale: Number(text("guidance_scale")),
      size: text("size"),
      ...Object.fromEntries(chosen),
      ...(this.#policies.value && { policy: this.#policies.value }),
      ...(byId("compare").checked && { compare: true }),
    };
  }

  #control(name) {
    return this.#form.elements.namedItem(name);
  }
}

function range(input, least, most, wanted) {
  Object.assign(input, { min: least, max: most, value: Math.min(most, Math.max(least, wanted)) });
}

function options(select, texts, chosen) {
  const choices = Object.entries(texts).map(([value, text]) => element("option", { value, selected: value === chosen }, text));
  select.replaceChildren(...choices);
}

/** Words that are shown as they are. */
function named(words) {
  return Object.fromEntries(words.map((word) => [word, word]));
}

/** A choice among the words that the server allows; none where it leaves none. */
function mode(name, allowed) {
  if (allowed.length < 2) return [];
  const [label, texts, usual] = MODES[name];
  const given = usual === "" || allowed.includes(usual) ? usual : allowed[0];
  const select = element("select", { name });
  options(select, Object.fromEntries(Object.entries(texts).filter(([word]) => word === "" || allowed.includes(word))), given);
  return [{ name, given, select, view: element("label", { class: "field" }, label, select) }];
}
