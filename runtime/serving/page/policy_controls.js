// The guard's numbers, one group for each concept, within the operator's bounds.

import { element } from "./elements.js";

export class PolicyControls {
  #groups;

  /** `concepts` are the offer's; their groups go into `place`. */
  constructor(place, concepts) {
    this.#groups = concepts.map(group);
    place.replaceChildren(...this.#groups.map(({ view }) => view));
  }

  /** The policy of each concept of which something was changed; null where nothing was. */
  get value() {
    const changed = this.#groups.flatMap(({ concept, value }) => (value() === null ? [] : [[concept, value()]]));
    return changed.length ? Object.fromEntries(changed) : null;
  }
}

function group({ concept, policy, bounds }, index) {
  const numbered = ["replace_steps", "alpha_scale"].map((name) => number(name, policy, bounds));
  const controls = [threshold(`threshold-${index}`, policy, bounds), ...numbered, shift(policy, bounds)].filter(Boolean);
  const off = bounds.may_be_off ? element("input", { type: "checkbox" }) : null;
  const numbers = element(
    "div",
    { class: "concept" },
    controls.map((control) => control.view),
  );
  off?.addEventListener("change", () => {
    numbers.hidden = off.checked;
    for (const input of numbers.querySelectorAll("input, select")) input.disabled = off.checked; // what is hidden must not be filled in
  });
  const view = element(
    "fieldset",
    { class: "concept" },
    element("legend", {}, concept),
    off && element("label", { class: "check" }, off, `Do not guard against ${concept}`),
    numbers,
  );
  return { concept, view, value: () => (off?.checked ? "off" : changes(controls)) };
}

/** The numbers that differ from the server's, or null. */
function changes(controls) {
  const changed = controls.filter((control) => control.value() !== control.given);
  return changed.length ? Object.fromEntries(changed.map((control) => [control.name, control.value()])) : null;
}

/** A slider; the arrow keys move it by 0.01, wherever its end is. */
function threshold(id, { threshold: given }, { threshold: most }) {
  const input = element("input", { id, type: "range", min: 0, max: most, step: "any", "aria-describedby": `${id}-hint` });
  const output = element("output", { for: id });
  const set = (value) => {
    input.value = Math.min(most, Math.max(0, value));
    output.value = Number(input.value).toFixed(2);
    input.setAttribute("aria-valuetext", output.value);
  };
  set(given);
  input.addEventListener("input", () => set(Number(input.value)));
  input.addEventListener("keydown", (event) => {
    const change = { ArrowLeft: -0.01, ArrowDown: -0.01, ArrowRight: 0.01, ArrowUp: 0.01 }[event.key];
    if (!change) return;
    event.preventDefault();
    set(Number(input.value) + change);
  });
  const view = element(
    "div",
    { class: "field" },
    element("div", { class: "scale" }, element("label", { for: id }, "Threshold"), output),
    input,
    element("p", { class: "hint", id: `${id}-hint` }, "Lower is stricter."),
  );
  return {
    name: "threshold",
    given,
    view,
    value: () => (Number(input.value) === given ? given : Number(Number(input.value).toFixed(4))),
  };
}

const LABELS = { replace_steps: "Steps until the next check", alpha_scale: "Strength" };

/** A number with a range of its own; null where the server leaves no choice. */
function number(name, policy, bounds) {
  const [least, most] = bounds[name];
  if (least === most) return null;
  const step = name === "replace_steps" ? 1 : "any";
  const input = element("input", { type: "number", min: least, max: most, step, required: true, value: policy[name] });
  return {
    name,
    given: policy[name],
    view: element("label", { class: "field" }, LABELS[name], input),
    value: () => Number(input.value),
  };
}

const SHIFTS = { both: "both prompts", conditional: "the prompt only" };

function shift(policy, bounds) {
  if (bounds.shifts.length < 2) return null;
  const choices = bounds.shifts.map((word) => element("option", { value: word, selected: word === policy.shift }, SHIFTS[word]));
  const input = element("select", {}, choices);
  return {
    name: "shift",
    given: policy.shift,
    view: element("label", { class: "field" }, "Redirects", input),
    value: () => input.value,
  };
}
