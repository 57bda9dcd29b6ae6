// The server's API, as far as the page uses it.

import { events } from "./events.js";

/** An answer that is not the one asked for. `body` is the server's JSON, or {}; `code` the API's word for the error. */
export class ServerError extends Error {
  constructor(message, status, body) {
    super(message);
    this.status = status;
    this.body = body;
    this.code = body.error?.code ?? "";
  }
}

export class Server {
  key = ""; // the API key, where the server asks for one; kept until the page is closed

  /** What the server offers: the answer of GET /v1/models. */
  async models(signal) {
    return (await this.#fetch("v1/models", { signal })).json();
  }

  /** {ready, why} of GET /ready; a server that does not answer is not ready. */
  async readiness(signal) {
    try {
      const response = await fetch("ready", { signal, cache: "no-store" });
      const body = await json(response);
      return { ready: response.ok, why: body.why || body.state || `The server answered ${response.status}.` };
    } catch {
      return { ready: false, why: "The server does not answer." };
    }
  }

  /** Pictures with their reports; `onProgress(done, steps)` is called after each step. */
  async generate(body, onProgress, signal) {
    const response = await this.#fetch("v1/images/generations", { ...posted({ ...body, stream: true }), signal });
    for await (const { name, data } of events(response.body)) {
      if (name === "image_generation.progress") onProgress(data.done, data.steps);
      if (name === "image_generation.completed") return data;
      if (name === "error") throw failure(response.status, data);
    }
    throw new ServerError("The server ended the answer before the picture was done.", 0, {});
  }

  /** What a picture says of itself: the answer of POST /sdapi/v1/png-info. */
  async readReport(base64) {
    return (await this.#fetch("sdapi/v1/png-info", posted({ image: base64 }))).json();
  }

  async #fetch(path, options) {
    const headers = { ...options.headers, ...(this.key && { Authorization: `Bearer ${this.key}` }) };
    let response;
    try {
      response = await fetch(path, { cache: "no-store", ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError("The server does not answer.", 0, {});
    }
    if (!response.ok) throw failure(response.status, await json(response));
    return response;
  }
}

function posted(body) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
}

function failure(status, body) {
  const told = body.error?.message ?? body.detail ?? body.error;
  return new ServerError(typeof told === "string" && told ? told : `The server answered ${status}.`, status, body);
}

async function json(response) {
  try {
    return await response.json();
  } catch {
    return {};
  }
}
