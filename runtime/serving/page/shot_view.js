// A shot as people see it: verdict, pictures, prompt, what the guard saw, and the numbers.

import { element, svg } from "./elements.js";
import { markedPrompt } from "./marked_prompt.js";
import { legend, timeline } from "./timeline.js";
import { isWithheld, verdictOf } from "./verdict.js";

const SIGNS = {
  good: "m4 9 4 4 7-8",
  changed: "M3 13c5 0 4-8 9-8h3l-3-3m3 3-3 3",
  bad: "M9 3v7m0 3v2",
  plain: "M4 9h10",
  withheld: "M9 2l6.5 2.5V9c0 4-2.5 6.5-6.5 7.5C5 15.5 2.5 13 2.5 9V4.5zM6 12l6-6",
};

/** Pixels; a picture of at most these is enlarged without blurring it. */
export const SMALL = 256;

/** An article about a shot. */
export function shotView(shot) {
  const { report } = shot;
  return element(
    "article",
    { class: "shot" },
    heading(report),
    pictures(shot),
    markedPrompt(report),
    report.negative_prompt && element("p", { class: "note" }, `Without: ${report.negative_prompt}`),
    Object.entries(report.cut).map(([name, end]) =>
      element("p", { class: "note" }, `The end of the ${name.replace("_", " ")} was not read: ${end}`),
    ),
    guards(report),
    numbers(report),
  );
}

function heading(report) {
  const { kind, title, text } = verdictOf(report);
  const withheld = isWithheld(report);
  const sign = svg(
    "svg",
    { class: "sign", viewBox: "0 0 18 18", "aria-hidden": "true" },
    svg("path", { d: SIGNS[withheld ? "withheld" : kind] }),
  );
  return element(
    "header",
    { class: `verdict ${kind}${withheld ? " withheld" : ""}` },
    element("h3", {}, sign, title),
    element("p", {}, text),
  );
}

function pictures(shot) {
  if (!shot.url) return null;
  const guarded = shot.report.verdict === "unguarded" ? "Unguarded" : "Guarded";
  return element("div", { class: "pictures" }, figure(shot, guarded), shot.unguarded && figure(shot.unguarded, "Unguarded"));
}

/** A picture with its name and a link that saves it, report inside; null where there is none to show. */
function figure({ url, report }, name) {
  if (!url) return null;
  const size = { width: report.width, height: report.height, class: report.width <= SMALL && "small" };
  const link = element(
    "a",
    { href: url, download: fileName(report), class: "button" },
    "Download",
    element("span", { class: "unseen" }, ` ${name}`),
  );
  return element(
    "figure",
    { class: "picture" },
    element("img", { src: url, alt: `${name}: ${report.prompt}`, ...size }),
    element("figcaption", {}, element("span", {}, name), link),
  );
}

function fileName(report) {
  return `saferedir-${report.seed}-${report.verdict}.png`;
}

function guards(report) {
  if (!report.guards.length) return null;
  const acts = report.on_unsafe === "redirect";
  const timelines = report.guards.map((guard) => timeline(guard, acts));
  return element("section", { class: "guards" }, element("h4", {}, "What the guard saw"), timelines, legend());
}

function numbers(report) {
  const again = element("button", { type: "button", class: "link", "data-seed": report.seed }, "use again");
  const facts = {
    seed: [report.seed, " ", again],
    sampler: report.sampler,
    steps: report.num_inference_steps,
    guidance: `${report.guidance_scale} (${report.guidance})`,
    size: `${report.width}×${report.height}`,
    "guard looks": report.check && (report.check === "before" ? "before each step" : "beside each step"),
    engines: report.manifest_digest.slice(0, 12),
  };
  const rows = Object.entries(facts).filter(([, value]) => value !== null);
  return element(
    "dl",
    { class: "numbers" },
    rows.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value))),
  );
}
