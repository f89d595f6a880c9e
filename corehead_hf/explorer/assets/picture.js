const VEIL = 0.45; // opacity of the heat where attention is 0
const HOTTEST = 0.92;

/** One picture of the board: the image, the heat over it, lines over both. Coordinates are native pixels. */
function makePicture(picture, scene) {
  const node = document.getElementById("picture-template").content.firstElementChild.cloneNode(true);
  const [image, canvas, svg] = ["img", "canvas", "svg"].map((name) => node.querySelector(name));
  const cells = picture.tokens.length;
  image.src = picture.src;
  image.alt = picture.caption;
  node.querySelector(".name").textContent = picture.caption;
  node.querySelector(".holds").hidden = picture.evidence.length === 0;
  svg.setAttribute("viewBox", `0 0 ${picture.width} ${picture.height}`);

  const box = (cell) => picture.boxes.subarray(4 * cell, 4 * cell + 4);
  const outline = ([left, top, right, bottom]) => `M${left} ${top}H${right}V${bottom}H${left}Z`;
  const every = Array.from({ length: cells }, (_, cell) => cell);
  const setPath = (name, boxes) => svg.querySelector(`.${name}`).setAttribute("d", boxes.map(outline).join(""));
  setPath("grid", every.map(box));
  setPath("counted", every.filter((cell) => scene.counted[picture.tokens[cell]]).map(box));
  setPath("boxes-under", picture.evidence);
  setPath("boxes", picture.evidence);

  /** Device pixels of a canvas edge. */
  const columnAt = (x) => Math.round((x / picture.width) * canvas.width);
  const rowAt = (y) => Math.round((y / picture.height) * canvas.height);

  /** Paint codes up to `highest`, hottest last, so that a view of the whole does not hide a tile. */
  function paint(codes, maximum, highest, table) {
    const context = canvas.getContext("2d");
    context.fillStyle = cssColor(table, 0, VEIL);
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.fillRect(0, 0, canvas.width, canvas.height);
    if (!codes) return;
    const colors = new Map();
    const order = new Float64Array(cells);
    for (let cell = 0; cell < cells; cell += 1) order[cell] = codes[picture.tokens[cell]] * cells + cell;
    for (const key of order.sort()) {
      const cell = key % cells;
      const code = codes[picture.tokens[cell]];
      if (!colors.has(code)) {
        const share = Math.min(1, decoded(code, maximum) / highest);
        colors.set(code, cssColor(table, share, VEIL + (HOTTEST - VEIL) * Math.sqrt(share)));
      }
      const [left, top, right, bottom] = box(cell);
      const place = [columnAt(left), rowAt(top), columnAt(right) - columnAt(left), rowAt(bottom) - rowAt(top)];
      context.clearRect(...place);
      context.fillStyle = colors.get(code);
      context.fillRect(...place);
    }
  }

  /** The token that is painted at a place of the stage, the hottest of those that show it, or null. */
  function tokenAt(event, codes) {
    const area = canvas.getBoundingClientRect();
    const x = ((event.clientX - area.left) / area.width) * picture.width;
    const y = ((event.clientY - area.top) / area.height) * picture.height;
    let found = null;
    for (let cell = 0; cell < cells; cell += 1) {
      const [left, top, right, bottom] = box(cell);
      const token = picture.tokens[cell];
      const inside = x >= left && x < right && y >= top && y < bottom;
      if (inside && (found === null || (codes && codes[token] >= codes[found]))) found = token;
    }
    return found;
  }

  return {
    node,
    aspect: picture.height / picture.width,
    tokenAt,
    paint,
    shows: (token) => picture.tokens.includes(token),
    point: (token) => setPath("pointed", token === null ? [] : every.filter((c) => picture.tokens[c] === token).map(box)),
    resize(width) {
      const ratio = window.devicePixelRatio || 1;
      node.style.width = `${width}px`;
      canvas.width = Math.max(1, Math.round(width * ratio));
      canvas.height = Math.max(1, Math.round(width * ratio * (picture.height / picture.width)));
      node.classList.toggle("narrow", width < 170);
      image.classList.toggle("pixelated", width >= 2 * picture.width);
    },
  };
}
