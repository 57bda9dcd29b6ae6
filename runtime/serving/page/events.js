// Server-sent events of an answer, as they come. Format: https://html.spec.whatwg.org/multipage/server-sent-events.html

/** Yields {name, data} for each event of a body; `data` is read as JSON. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const blocks = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const event = parsed(block);
        if (event.data) yield { name: event.name, data: JSON.parse(event.data) };
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // an answer that nobody reads on is ended
  }
}

function parsed(block) {
  const lines = block.split("\n");
  const values = (field) =>
    lines.filter((line) => line.startsWith(`${field}:`)).map((line) => line.slice(field.length + 1).trimStart());
  return { name: values("event").at(-1) ?? "message", data: values("data").join("\n") };
}
