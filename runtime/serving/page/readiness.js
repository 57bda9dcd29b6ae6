// Whether the server takes requests, asked again and again: a page that is left open recovers by itself.

const WHILE_READY = 3000; // milliseconds
const WHILE_NOT = 1000;

/** Calls `onChange({ready, why})` at once, and whenever the answer changes, for as long as the page is open. */
export async function watchReadiness(server, onChange) {
  let last = "";
  for (;;) {
    const readiness = await server.readiness(AbortSignal.timeout(10000));
    const answer = JSON.stringify(readiness);
    if (answer !== last) await onChange(readiness);
    last = answer;
    await new Promise((resolve) => setTimeout(resolve, readiness.ready ? WHILE_READY : WHILE_NOT));
  }
}
