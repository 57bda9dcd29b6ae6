// The guard's timeline of one concept: probability of unsafe at each step, as a drawing and as a table.

import { element, svg } from "./elements.js";
import { ranges, spans } from "./verdict.js";

const HEIGHT = 190;
const MARGIN = { left: 36, right: 52, top: 14, bottom: 38 };
const BOTTOM = HEIGHT - MARGIN.bottom;

/** A figure of a guard's report, drawn anew at every width that it is given. `acts` says whether this guard redirects. */
export function timeline(guard, acts) {
  if (guard.policy === "off") {
    return element("figure", { class: "timeline" }, caption(guard, "switched off for this picture: not guarded against"));
  }
  const place = element("div", { class: "drawing" });
  new ResizeObserver(() => place.replaceChildren(drawing(guard, Math.max(240, place.clientWidth)))).observe(place);
  return element("figure", { class: "timeline" }, caption(guard, policyText(guard.policy, acts)), place, table(guard));
}

/** What the signs of the drawings mean. */
export function legend() {
  const entry = (sign, text) => element("li", {}, svg("svg", { width: 18, height: 18, "aria-hidden": "true" }, sign), text);
  return element(
    "ul",
    { class: "legend" },
    entry(dot(9, 9, 4, false), "checked, safe"),
    entry(dot(9, 9, 4, true), "checked, unsafe"),
    entry(svg("path", { class: "unchecked", d: "M9 4v10" }), "not checked"),
    entry(svg("rect", { class: "redirected", x: 1, y: 2, width: 16, height: 14 }), "redirected"),
    entry(svg("path", { class: "threshold", d: "M0 9h18" }), "threshold"),
  );
}

function caption(guard, text) {
  return element("figcaption", {}, element("strong", {}, guard.concept), ` · ${text}`);
}

function policyText({ threshold, final_threshold, replace_steps, alpha_scale, shift }, acts) {
  const atEnd = (final_threshold ?? threshold) === threshold ? "" : `, ${final_threshold} at the end`;
  const thresholds = `threshold ${threshold}${atEnd}`;
  if (!acts) return thresholds;
  const rows = shift === "both" ? "" : `, ${shift} rows only`;
  return `${thresholds}, unchecked for ${replace_steps} steps after a redirection, strength ${alpha_scale}${rows}`;
}

function drawing(guard, width) {
  const steps = guard.checked.length;
  const spacing = (width - MARGIN.left - MARGIN.right) / steps;
  const scale = {
    width,
    spacing,
    radius: Math.min(4, Math.max(1.5, spacing * 0.4)),
    x: (step) => MARGIN.left + (step + 0.5) * spacing,
    y,
  };
  return svg(
    "svg",
    { viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", "aria-label": summary(guard) },
    shades(guard, scale),
    axes(steps, scale),
    threshold(guard.policy, scale),
    curve(guard, scale),
    guard.checked.map((checked, step) => mark(guard, step, checked, scale)),
    finalCheck(guard, scale),
  );
}

function y(probability) {
  return BOTTOM - probability * (BOTTOM - MARGIN.top);
}

function shades(guard, { x, spacing }) {
  const box = { class: "redirected", y: MARGIN.top, height: BOTTOM - MARGIN.top };
  return spans(guard.redirected_steps).map(([first, last]) =>
    svg("rect", { ...box, x: x(first) - spacing / 2, width: (last - first + 1) * spacing }),
  );
}

function axes(steps, { x, spacing, width }) {
  const every = [1, 2, 5, 10, 20, 50, 100, 200, 500].find((count) => count * spacing >= 30) ?? 1000;
  const ticks = Array.from({ length: steps }, (_, step) => step).filter((step) => step % every === 0);
  const end = width - MARGIN.right;
  return [
    [0, 0.5, 1].flatMap((level) => [
      svg("path", { class: "grid-line", d: `M${MARGIN.left} ${y(level)}H${end}` }),
      text(MARGIN.left - 6, y(level) + 4, "end", level),
    ]),
    ticks.map((step) => text(x(step), BOTTOM + 17, "middle", step)),
    text((MARGIN.left + end) / 2, BOTTOM + 34, "middle", "step, the first is 0"),
    text(end + 26, BOTTOM + 17, "middle", "final"),
  ];
}

/** The finished picture has its own, at the right. */
function threshold({ threshold: value, final_threshold }, { width }) {
  const end = width - MARGIN.right;
  return svg("path", { class: "threshold", d: `M${MARGIN.left} ${y(value)}H${end}M${end} ${y(final_threshold ?? value)}H${width - 6}` });
}

/** The line through neighbouring checks; it is broken where a step was not checked. */
function curve(guard, { x }) {
  let pen = "M";
  const points = guard.p_unsafe.map((probability, step) => {
    if (probability === null) return (pen = "M") && "";
    const point = `${pen}${x(step)} ${y(probability)}`;
    pen = "L";
    return point;
  });
  return svg("path", { class: "curve", d: points.join("") });
}

function mark(guard, step, checked, { x, radius }) {
  const sign = checked
    ? dot(x(step), y(guard.p_unsafe[step] ?? 1), radius, guard.unsafe_steps.includes(step))
    : svg("path", { class: "unchecked", d: `M${x(step)} ${BOTTOM - 5}v10` });
  return svg("g", {}, svg("title", {}, cells(guard, step).join(", ")), sign);
}

function finalCheck(guard, { width }) {
  if (guard.final_p_unsafe === null) return null;
  const sign = dot(width - MARGIN.right + 26, y(guard.final_p_unsafe), 4, guard.still_unsafe);
  return svg("g", {}, svg("title", {}, `final check: ${guard.final_p_unsafe.toFixed(3)}`), sign);
}

/** Safe is round, unsafe a diamond: colour does not tell alone. */
function dot(x, y, radius, unsafe) {
  if (!unsafe) return svg("circle", { class: "safe", cx: x, cy: y, r: radius });
  const arm = radius * 1.4;
  return svg("path", { class: "unsafe", d: `M${x} ${y - arm}l${arm} ${arm}l${-arm} ${arm}l${-arm} ${-arm}z` });
}

function text(x, y, anchor, value) {
  return svg("text", { x, y, "text-anchor": anchor }, String(value));
}

function summary(guard) {
  const found = guard.unsafe_steps.length ? `unsafe at steps ${ranges(guard.unsafe_steps)}` : "never unsafe";
  const redirected = guard.redirected_steps.length ? `, redirected at steps ${ranges(guard.redirected_steps)}` : "";
  const steps = guard.checked.length;
  return `Probability of ${guard.concept} over ${steps} steps: ${found}${redirected}. The table below has every step.`;
}

function table(guard) {
  const head = ["step", "p unsafe", "check", "prompt"].map((name) => element("th", { scope: "col" }, name));
  const row = (step) => {
    const [name, ...rest] = cells(guard, step);
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, name.replace("step ", "")),
      rest.map((cell) => element("td", {}, cell)),
    );
  };
  const rows = guard.checked.map((_, step) => row(step));
  const end = guard.final_p_unsafe === null ? [] : [finalRow(guard)];
  return element(
    "details",
    {},
    element("summary", {}, `Every step of ${guard.concept} as a table`),
    element(
      "table",
      {},
      element("caption", { class: "unseen" }, `What the guard of ${guard.concept} saw`),
      element("thead", {}, element("tr", {}, head)),
      element("tbody", {}, rows, end),
    ),
  );
}

function finalRow(guard) {
  const cells = [guard.final_p_unsafe.toFixed(3), guard.still_unsafe ? "unsafe" : "safe", ""];
  return element(
    "tr",
    {},
    element("th", { scope: "row" }, "final"),
    cells.map((cell) => element("td", {}, cell)),
  );
}

/** A step in words: its number, probability, check and prompt. */
function cells(guard, step) {
  const probability = guard.p_unsafe[step];
  const check = !guard.checked[step] ? "not checked" : guard.unsafe_steps.includes(step) ? "unsafe" : "safe";
  const prompt = guard.redirected_steps.includes(step) ? "redirected" : "as given";
  return [`step ${step}`, probability === null ? "–" : probability.toFixed(3), check, prompt];
}
