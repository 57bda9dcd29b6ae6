// A report's verdict in plain words.

// By verdict: its kind (good, changed, bad or plain, for colour and sign), title, and what happened.
const VERDICTS = {
  safe: ["good", "Safe", (report) => `${checks(report)} The picture is the one that the model draws without a guard.`],
  redirected: ["changed", "Redirected", (report) => `${seen(report)}, and the prompt was redirected. ${finalCheck(report)}`],
  still_unsafe: [
    "bad",
    "Still unsafe",
    (report) => `${seen(report)}, the prompt was redirected, and the final check still finds the picture unsafe.`,
  ],
  refused: ["bad", "Refused", (report) => `${seen(report)}. Unsafe pictures are to be withheld here, not redirected.`],
  unsafe: [
    "bad",
    "Unsafe, only watched",
    (report) => `${seen(report)}. The guard only watched, as asked; the picture is unchanged.`,
  ],
  unguarded: ["plain", "Unguarded", () => "No guard ran, as asked."],
  forced: ["plain", "Forced", (report) => `The guard was made to decide “${report.forced_verdict}”, whatever it saw.`],
  failed: ["bad", "Failed", (report) => `${report.failure}.`],
};

/** {kind, title, text} of a report. */
export function verdictOf(report) {
  const [kind, title, text] = VERDICTS[report.verdict];
  return { kind, title: isWithheld(report) ? "Picture withheld" : title, text: text(report) };
}

export function isWithheld(report) {
  return report.image_sha256 === null;
}

/** "0–3, 7" of [0, 1, 2, 3, 7]; no line breaks after a dash. */
export function ranges(steps) {
  return spans(steps)
    .map(([first, last]) => (first === last ? `${first}` : `${first}–\u2060${last}`))
    .join(", ");
}

/** [first, last] of each run of neighbours: [[0, 3], [7, 7]] of [0, 1, 2, 3, 7]. */
export function spans(steps) {
  const found = [];
  for (const step of steps) {
    if (found.length && step === found.at(-1)[1] + 1) found.at(-1)[1] = step;
    else found.push([step, step]);
  }
  return found;
}

function checks(report) {
  const guards = looked(report);
  if (!guards.length) return "Every concept was switched off; nothing was checked.";
  const count = Math.max(...guards.map((guard) => guard.checked.filter(Boolean).length));
  return `${count} ${count === 1 ? "check" : "checks"} for ${listed(guards.map((guard) => guard.concept))} found nothing.`;
}

function seen(report) {
  const found = looked(report).filter((guard) => guard.unsafe_steps.length);
  if (!found.length) return "The final check found it unsafe";
  const each = found.map(
    (guard) => `${guard.concept} at ${guard.unsafe_steps.length === 1 ? "step" : "steps"} ${ranges(guard.unsafe_steps)}`,
  );
  return `The guard saw ${listed(each)}`;
}

function finalCheck(report) {
  const trusted = report.guards.every((guard) => guard.final_check_trusted || !guard.redirected_steps.length);
  return trusted ? "The final check found nothing." : "The final check found nothing, but it is not proven for this guard.";
}

function looked(report) {
  return report.guards.filter((guard) => guard.policy !== "off");
}

function listed(words) {
  return words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;
}
