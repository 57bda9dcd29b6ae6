// The pictures of this session, newest first; kept in memory only.

import { element } from "./elements.js";
import { forget } from "./shot.js";
import { verdictOf } from "./verdict.js";

const MOST = 60;

export class History {
  #shots = [];
  #list;
  #onChosen;

  /** `list` is the element that gets an item for each shot; `onChosen(shot)` is called when one is to be seen again. */
  constructor(list, onChosen) {
    this.#list = list;
    this.#onChosen = onChosen;
  }

  add(shot) {
    this.#shots.unshift(shot);
    this.#list.prepend(element("li", {}, this.#button(shot)));
    if (this.#shots.length > MOST) {
      forget(this.#shots.pop());
      this.#list.lastElementChild.remove();
    }
    this.#mark(shot);
  }

  #button(shot) {
    const { report, url } = shot;
    const picture = url ? element("img", { src: url, alt: "" }) : element("span", { class: "none", "aria-hidden": "true" }, "–");
    const name = `${verdictOf(report).title}: ${report.prompt}, seed ${report.seed}`;
    return element("button", { type: "button", "aria-label": name, title: name, onclick: () => this.#choose(shot) }, picture);
  }

  #choose(shot) {
    this.#mark(shot);
    this.#onChosen(shot);
  }

  #mark(chosen) {
    this.#shots.forEach((shot, index) => {
      const button = this.#list.children[index].firstElementChild;
      if (shot === chosen) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    });
  }
}
