/** Light or dark as the system prefers, until the reader chooses. The choice is not kept. */
function makeTheme(state) {
  const button = document.getElementById("theme");
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  let chosen = false;

  function apply(theme) {
    document.documentElement.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", `Switch to ${theme === "dark" ? "light" : "dark"} colours`);
    state.set({ theme });
  }

  apply(system.matches ? "dark" : "light");
  system.addEventListener("change", (event) => chosen || apply(event.matches ? "dark" : "light"));
  button.addEventListener("click", () => {
    chosen = true;
    apply(state.values.theme === "dark" ? "light" : "dark");
  });
}

function makeSwitches(state) {
  for (const name of ["attention", "evidence", "grid"]) {
    const box = document.getElementById(`show-${name}`);
    state.values[name] = box.checked;
    box.addEventListener("change", () => state.set({ [name]: box.checked }));
  }
  for (const radio of document.querySelectorAll("input[name=scale]")) {
    if (radio.checked) state.values.scale = radio.value;
    radio.addEventListener("change", () => radio.checked && state.set({ scale: radio.value }));
  }
}

async function start() {
  const scene = await readScene();
  const state = makeState({ pinned: scene.ranking[0], preview: null });
  const live = document.getElementById("live");
  const announce = (text) => (live.textContent = text);
  fillTexts(scene);
  makeTheme(state);
  makeSwitches(state);
  const board = makeBoard(scene, state);
  makeHeadMap(scene, state, announce);
  makeSummary(scene, state, board);
  makeRanking(scene, state, announce);
  await Promise.all(Array.from(document.images, (image) => image.decode()));
  state.tell();
  document.documentElement.dataset.ready = "true";
}

if ("DecompressionStream" in window) {
  start().catch((error) => {
    showNotes([`This page could not be shown: ${error.message}`]);
    throw error;
  });
} else {
  showNotes(["This page needs a browser of 2023 or later: this one has no DecompressionStream."]);
}
