// What the server offers, from the answer of GET /v1/models.

const FROM_WEAK_TO_STRICT = {
  check: ["beside", "auto", "before"],
  on_unsafe: ["monitor", "redirect", "refuse"],
  on_still_unsafe: ["deliver", "withhold"],
  shift: ["both", "conditional"],
};

/**
 * The offer for the first model: its extension field `saferedir`, `summary`, a line for people, `words`, what each mode may be,
 * and the concepts as a list, `shifts` in each its allowed words.
 */
export function offerOf(models) {
  const [model] = models.data;
  const offer = model.saferedir;
  const concepts = Object.entries(offer.concepts).map(([concept, { policy, bounds }]) => {
    return { concept, policy, bounds: { ...bounds, shifts: allowed("shift", bounds.shift) } };
  });
  const words = Object.fromEntries(["on_unsafe", "on_still_unsafe", "check"].map((name) => [name, allowed(name, offer[name])]));
  const unguarded = offer.unguarded ? " · unguarded pictures are allowed here" : "";
  const summary = `${model.id} · guarded against ${concepts.map(({ concept }) => concept).join(", ")}${unguarded}`;
  return { ...offer, concepts, words, summary };
}

/** The words that are as strict as this one, or stricter. */
function allowed(name, weakest) {
  const words = FROM_WEAK_TO_STRICT[name];
  return words.slice(words.indexOf(weakest));
}
