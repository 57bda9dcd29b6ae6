// One answer of the server: a report with its picture, and the unguarded picture beside it where one was asked for.

/** {report, url, unguarded}: `url` shows the picture and is null where it was withheld; `unguarded` is such a shot, or null. */
export function shotOf(answer) {
  const shots = answer.data.map(({ b64_json, report }) => ({
    report,
    url: b64_json ? pictureUrl(b64_json) : null,
    unguarded: null,
  }));
  const guarded = shots.find((shot) => shot.report.verdict !== "unguarded") ?? shots[0];
  return { ...guarded, unguarded: shots.find((shot) => shot !== guarded) ?? null };
}

/** The shot of a picture that an error withholds, or null where the error is about something else. */
export function withheldShot(error) {
  const [report] = error.body?.saferedir?.reports ?? [];
  return report ? { report, url: null, unguarded: null } : null;
}

/** Free the memory of its pictures; no address of them works any more. */
export function forget(shot) {
  for (const url of [shot.url, shot.unguarded?.url]) if (url) URL.revokeObjectURL(url);
}

function pictureUrl(base64) {
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  return URL.createObjectURL(new Blob([bytes], { type: "image/png" }));
}
