// The prompt with the tokens that the guard holds responsible.

import { element } from "./elements.js";

/** A paragraph with the prompt; marked words say so to screen readers as well. */
export function markedPrompt(report) {
  const marks = placed(
    report.prompt,
    report.guards.flatMap((guard) => guard.responsible_tokens.map((token) => ({ ...token, concept: guard.concept }))),
  );
  const parts = [];
  let end = 0;
  for (const mark of marks) {
    parts.push(report.prompt.slice(end, mark.start), marked(report.prompt.slice(mark.start, mark.end), mark));
    end = mark.end;
  }
  parts.push(report.prompt.slice(end));
  return element("p", { class: "prompt" }, parts);
}

function marked(text, mark) {
  const why = `held responsible for ${[...mark.concepts].join(", ")}, weight ${mark.weight.toFixed(2)}`;
  return element("mark", { title: why }, text, element("span", { class: "unseen" }, ` (${why})`));
}

/** Where the tokens stand in the prompt, in order and without overlaps. */
function placed(prompt, tokens) {
  const marks = new Map();
  for (const token of tokens) {
    const start = nearest(prompt, token);
    if (start === null) continue;
    const mark = marks.get(start) ?? { start, end: start + token.text.length, weight: 0, concepts: new Set() };
    mark.weight = Math.max(mark.weight, token.weight);
    mark.concepts.add(token.concept);
    marks.set(start, mark);
  }
  const sorted = [...marks.values()].sort((one, other) => one.start - other.start);
  return sorted.filter((mark, index) => index === 0 || mark.start >= sorted[index - 1].end);
}

/**
 * Where a token's text stands: of several places the one with as many words before it as tokens, or nearly so, and a word's start
 * before its middle. A report has no places in characters; position 0 is the start token.
 */
function nearest(prompt, token) {
  if (!token.text) return null;
  let best = null;
  for (let start = prompt.indexOf(token.text); start >= 0; start = prompt.indexOf(token.text, start + 1)) {
    const before = (prompt.slice(0, start).match(/[\p{L}\p{M}]+|\p{N}|[^\s\p{L}\p{M}\p{N}]/gu) ?? []).length;
    const distance = Math.abs(before - (token.position - 1)) + (/[\p{L}\p{M}]$/u.test(prompt.slice(0, start)) ? 0.5 : 0);
    if (best === null || distance < best.distance) best = { start, distance };
  }
  return best?.start ?? null;
}
