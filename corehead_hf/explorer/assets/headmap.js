const MAP_LEFT = 38; // CSS pixels beside the cells, for the layers' numbers
const MAP_BOTTOM = 30;
const MAP_EDGE = 5; // above and to the right, for the outline of the pinned head

const METRICS = [
  ["score", "RAM over the data set"],
  ["ram", "RAM on this example"],
  ["vision", "attention on all visual tokens"],
];

/** The layer x head map, layers upward: hover to preview, click to pin, arrow keys to move. */
function makeHeadMap(scene, state, announce) {
  const root = document.getElementById("map");
  const canvas = document.getElementById("map-canvas");
  const select = document.getElementById("metric");
  const table = colorTable("viridis");
  const { layers, headsPerLayer: across } = scene;

  METRICS.filter(([name]) => scene.heads[name]).forEach(([name, title]) => select.add(new Option(title, name)));
  state.values.metric = select.value;
  select.addEventListener("change", () => state.set({ metric: select.value }));
  drawScale(document.getElementById("map-scale"), table);

  const width = () => (root.clientWidth - MAP_LEFT - MAP_EDGE) / across;
  const height = () => (root.clientHeight - MAP_BOTTOM - MAP_EDGE) / layers;
  const topOf = (layer) => MAP_EDGE + (layers - 1 - layer) * height();

  function headAt(event) {
    const box = canvas.getBoundingClientRect();
    const head = Math.floor((event.clientX - box.left - MAP_LEFT) / width());
    const layer = layers - 1 - Math.floor((event.clientY - box.top - MAP_EDGE) / height());
    return head >= 0 && head < across && layer >= 0 && layer < layers ? layer * across + head : null;
  }

  function drawAxes(context, style) {
    const w = width();
    context.fillStyle = style.getPropertyValue("--muted");
    context.font = "11px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (const layer of tickNumbers(layers, 10)) {
      context.fillText(layer, MAP_LEFT - 6, topOf(layer - 0.5));
    }
    context.textAlign = "center";
    for (const head of tickNumbers(across, 12)) {
      context.fillText(head, MAP_LEFT + (head + 0.5) * w, topOf(-1) + 9);
    }
    context.fillText("head", MAP_LEFT + (across * w) / 2, topOf(-1) + 23);
    context.save();
    context.translate(7, topOf((layers - 2) / 2));
    context.rotate(-Math.PI / 2);
    context.fillText("layer", 0, 0);
    context.restore();
  }

  function outline(context, index, color, line, outside) {
    const [w, h] = [width(), height()];
    const [layer, head] = [Math.floor(index / across), index % across];
    context.strokeStyle = color;
    context.lineWidth = line;
    const grow = outside + line / 2;
    const left = MAP_LEFT + head * w - grow;
    context.strokeRect(left, topOf(layer) - grow, w + 2 * grow, h + 2 * grow);
  }

  function draw() {
    const context = fittedContext(canvas, root.clientWidth, root.clientHeight);
    const style = getComputedStyle(document.documentElement);
    const values = scene.heads[state.values.metric];
    const highest = values.reduce((a, b) => Math.max(a, b), 0) || 1;
    const [w, h] = [width(), height()];
    const gap = Math.min(w, h) > 6 ? 1 : 0;
    values.forEach((value, index) => {
      const left = MAP_LEFT + (index % across) * w;
      const top = topOf(Math.floor(index / across));
      context.fillStyle = cssColor(table, value / highest);
      context.fillRect(left, top, w - gap, h - gap);
      if (!scene.rowOf.has(index)) {
        context.fillStyle = style.getPropertyValue("--surface");
        context.fillRect(left + w * 0.35, top + h * 0.35, w * 0.3, h * 0.3);
      }
    });
    drawAxes(context, style);
    outline(context, state.values.pinned, style.getPropertyValue("--surface"), 2, 0);
    outline(context, state.values.pinned, style.getPropertyValue("--text"), 2, 2);
    if (state.values.preview !== null) outline(context, state.values.preview, "#ff4d8d", 2.5, 0);
    setTicks(document.getElementById("map-ticks"), highest);
  }

  canvas.addEventListener("pointermove", (event) => {
    if (event.pointerType !== "touch") state.set({ preview: headAt(event) });
  });
  canvas.addEventListener("pointerleave", () => state.set({ preview: null }));
  canvas.addEventListener("click", (event) => {
    const head = headAt(event);
    if (head !== null) pinHead(state, scene, head, announce);
  });
  root.addEventListener("keydown", (event) => {
    const at = state.head();
    const [layer, head] = [Math.floor(at / across), at % across];
    const moves = {
      ArrowUp: [Math.min(layer + 1, layers - 1), head],
      ArrowDown: [Math.max(layer - 1, 0), head],
      ArrowLeft: [layer, Math.max(head - 1, 0)],
      ArrowRight: [layer, Math.min(head + 1, across - 1)],
      Home: [layer, 0],
      End: [layer, across - 1],
    };
    if (event.key in moves) {
      const to = moves[event.key][0] * across + moves[event.key][1];
      state.set({ preview: to });
      announce(headSentence(scene, to));
    } else if (event.key === "Enter" || event.key === " ") {
      pinHead(state, scene, at, announce);
    } else if (event.key === "Escape") {
      state.set({ preview: null });
      announce(headSentence(scene, state.values.pinned));
    } else {
      return;
    }
    event.preventDefault();
  });
  root.addEventListener("blur", () => state.set({ preview: null }));
  new ResizeObserver(draw).observe(root);
  state.listen(draw);
}

function headName(scene, index) {
  return `Layer ${Math.floor(index / scene.headsPerLayer)}, head ${index % scene.headsPerLayer}`;
}

function headSentence(scene, index) {
  const place = `rank ${scene.rankOf[index]} of ${scene.rankOf.length}`;
  return `${headName(scene, index)}, ${place}, RAM on this example ${formatShare(scene.heads.ram[index])}`;
}

function pinHead(state, scene, index, announce) {
  state.set({ pinned: index, preview: null });
  announce(`Pinned: ${headSentence(scene, index)}`);
}

/** At most `most` round numbers of 0 to count - 1. */
function tickNumbers(count, most) {
  const step = [1, 2, 4, 5, 8, 10, 16, 20, 32, 64, 128].find((size) => count / size <= most) ?? count;
  return Array.from({ length: Math.ceil(count / step) }, (_, i) => i * step);
}

/** A cleared 2d context in CSS pixels, sharp on this screen. */
function fittedContext(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

function setTicks(root, highest) {
  root.replaceChildren(
    ...[0, highest / 2, highest].map((value) => {
      const tick = document.createElement("span");
      tick.textContent = formatShare(value);
      return tick;
    })
  );
}
