const LISTED = 10; // heads at either end of the ranking

/** The numbers of the active head. */
function makeSummary(scene, state, board) {
  const at = (name) => document.getElementById(name);
  const parts = ["evidence", "visual", "words"].map((name) => document.querySelector(`#shares .${name}`));
  at("score-box").hidden = !scene.heads.score;

  function largestSentence(head) {
    const token = scene.largest[head];
    const place = `on token ${token}${scene.counted[token] ? " (evidence)" : ""}`;
    const unseen = board.shows(token) ? "" : ", which no picture shows";
    return `Largest entry ${formatShare(scene.heads.maximum[head])} ${place}${unseen}`;
  }

  function draw() {
    const head = state.head();
    const [ram, vision, text] = ["ram", "vision", "text"].map((name) => scene.heads[name][head]);
    const visual = Math.max(0, vision - ram);
    at("head").dataset.head = head;
    at("head-title").textContent = headName(scene, head);
    at("map-head").textContent = headName(scene, head);
    at("rank").textContent = `rank ${scene.rankOf[head]} of ${scene.rankOf.length}`;
    const pinned = head === state.values.pinned;
    at("mode").textContent = pinned ? "pinned" : "preview";
    at("mode").classList.toggle("preview", !pinned);
    at("largest").textContent = scene.rowOf.has(head) ? largestSentence(head) : "Its row was left out of this page";
    at("ram").textContent = `${formatShare(ram)} (${(ram / scene.chance).toFixed(1)}\u00d7 chance)`;
    at("visual").textContent = formatShare(visual);
    at("words").textContent = formatShare(text);
    if (scene.heads.score) at("score").textContent = formatShare(scene.heads.score[head]);
    [ram, visual, text].forEach((value, i) => (parts[i].style.flexGrow = value));
    at("shares").setAttribute(
      "aria-label",
      `Attention: evidence ${formatShare(ram)}, other visual tokens ${formatShare(visual)}, text ${formatShare(text)}`
    );
  }

  state.listen(draw);
}

/** The first and last heads of the ranking; each can be hovered and clicked. */
function makeRanking(scene, state, announce) {
  const count = scene.ranking.length;
  const top = Math.min(LISTED, Math.ceil(count / 2));
  const bottom = Math.min(LISTED, count - top);
  const template = document.getElementById("entry-template").content.firstElementChild;
  const buttons = [];

  function entry(head) {
    const item = template.cloneNode(true);
    const button = item.querySelector("button");
    button.dataset.head = head;
    button.querySelector(".place").textContent = scene.rankOf[head];
    const [layer, number] = [Math.floor(head / scene.headsPerLayer), head % scene.headsPerLayer];
    button.querySelector(".name").textContent = `L${layer} H${number}`;
    button.querySelector(".value").textContent = formatShare(scene.score[head]);
    const name = `Rank ${scene.rankOf[head]}: ${headName(scene, head)}, RAM ${formatShare(scene.score[head])}`;
    button.setAttribute("aria-label", name);
    button.addEventListener("pointerenter", (event) => {
      if (event.pointerType !== "touch") state.set({ preview: head });
    });
    button.addEventListener("pointerleave", () => state.set({ preview: null }));
    button.addEventListener("focus", () => state.set({ preview: head }));
    button.addEventListener("blur", () => state.set({ preview: null }));
    button.addEventListener("click", () => pinHead(state, scene, head, announce));
    buttons.push(button);
    return item;
  }

  const heads = Array.from(scene.ranking);
  document.getElementById("top").append(...heads.slice(0, top).map(entry));
  document.getElementById("bottom").append(...heads.slice(count - bottom).map(entry));
  document.getElementById("top-title").textContent = `Top ${top}`;
  document.getElementById("bottom-title").textContent = `Bottom ${bottom}`;
  document.getElementById("ranked-by").textContent = `by RAM ${scene.heads.score ? "over the data set" : "on this example"}`;

  state.listen(() => {
    for (const button of buttons) {
      const head = Number(button.dataset.head);
      button.setAttribute("aria-pressed", String(head === state.values.pinned));
      button.classList.toggle("active", head === state.head());
    }
  });
}

/** Question, answer, names, notes and provenance. All of it is text: nothing is read as markup. */
function fillTexts(scene) {
  const set = (name, text) => (document.getElementById(name).textContent = text);
  document.title = `${scene.question} - CoRe explorer`;
  set("question", scene.question);
  set("answer", scene.answer ?? "");
  document.getElementById("answer-line").hidden = !scene.answer;
  set("model", scene.model);
  set("dataset", scene.dataset ?? "not named");
  showNotes(scene.notes);
  const facts = document.getElementById("facts");
  for (const [name, value] of scene.facts) {
    const [title, text] = [document.createElement("dt"), document.createElement("dd")];
    title.textContent = name;
    text.textContent = value;
    facts.append(title, text);
  }
}

function showNotes(notes) {
  const root = document.getElementById("notes");
  root.hidden = notes.length === 0;
  root.replaceChildren(
    ...notes.map((note) => {
      const line = document.createElement("p");
      line.textContent = note;
      return line;
    })
  );
}
