// A picture that is dropped or chosen: the report inside it, and whether it belongs to it.

import { element } from "./elements.js";
import { shotView, SMALL } from "./shot_view.js";

const LARGEST = 20_000_000; // bytes; the server may take fewer

/** {kind, text, views}: what a file says of itself, in a sentence, good or bad, and as elements. Throws ServerError. */
export async function checked(server, file) {
  if (file.size > LARGEST) return { kind: "bad", text: `${file.name} is larger than 20 MB.`, views: [] };
  const { report, matches } = await server.readReport(await base64(file));
  if (!report) return { kind: "bad", text: `${file.name} carries no report of SafeRedir.`, views: [] };
  const text = matches
    ? `${file.name} is the picture that its report describes: size and SHA-256 agree.`
    : `${file.name} is not the picture that its report describes. It was changed, or the report is another picture's.`;
  const shots = report.verdict === "comparison" ? [report.guarded, report.unguarded] : [report];
  const views = [pictureOf(file), ...shots.map((each) => shotView({ report: each, url: null, unguarded: null }))];
  return { kind: matches ? "good" : "bad", text, views };
}

function pictureOf(file) {
  const url = URL.createObjectURL(file);
  const picture = element("img", { class: "whole", src: url, alt: "The chosen picture" });
  picture.addEventListener("load", () => {
    picture.classList.toggle("small", picture.naturalWidth <= SMALL);
    URL.revokeObjectURL(url);
  });
  return picture;
}

async function base64(file) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  let text = "";
  for (let start = 0; start < bytes.length; start += 0x8000) text += String.fromCharCode(...bytes.subarray(start, start + 0x8000));
  return btoa(text);
}
