const ARRAYS = { uint8: Uint8Array, int32: Int32Array, float32: Float32Array };

/** An array of encode.packed: base64 of deflated little-endian bytes. */
async function unpack({ dtype, shape, data }) {
  const deflated = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const stream = new Blob([deflated]).stream().pipeThrough(new DecompressionStream("deflate"));
  const array = new ARRAYS[dtype](await new Response(stream).arrayBuffer());
  if (array.length !== shape.reduce((product, size) => product * size, 1)) {
    throw new Error(`the page is damaged: ${array.length} values where ${shape} were written`);
  }
  return array;
}

async function unpackEach(object) {
  const names = Object.keys(object);
  const arrays = await Promise.all(names.map((name) => unpack(object[name])));
  return Object.fromEntries(names.map((name, i) => [name, arrays[i]]));
}

/** What the page shows, with arrays unpacked. Heads are counted layer * Hq + head. */
async function readScene() {
  const written = JSON.parse(document.getElementById("data").textContent);
  const [layers, headsPerLayer] = written.shape;
  const [main, heads, rows, ...pictures] = await Promise.all([
    unpackEach({
      ranking: written.ranking,
      largest: written.largest,
      columns: written.columns,
      counted: written.counted,
    }),
    unpackEach(written.heads),
    unpackEach(written.rows),
    ...written.pictures.map(({ tokens, boxes }) => unpackEach({ tokens, boxes })),
  ]);
  const count = main.columns.length;
  const rowOf = new Map();
  rows.heads.forEach((head, i) => rowOf.set(head, rows.codes.subarray(i * count, (i + 1) * count)));
  const rankOf = new Int32Array(main.ranking.length);
  main.ranking.forEach((head, place) => (rankOf[head] = place + 1));
  return {
    ...written,
    ...main,
    heads,
    layers,
    headsPerLayer,
    rowOf,
    rankOf,
    score: heads.score ?? heads.ram,
    sharedMaximum: heads.maximum.reduce((a, b) => Math.max(a, b), 0),
    pictures: written.pictures.map((picture, i) => ({ ...picture, ...pictures[i] })),
  };
}

/** Attention from a code: value = maximum * (code / 255) ** 2. */
function decoded(code, maximum) {
  return maximum * (code / 255) ** 2;
}

/** What is chosen on the page; listeners hear of every change, at most once a frame. */
function makeState(initial) {
  const listeners = [];
  const state = { ...initial };
  let waiting = false;
  const tell = () => {
    waiting = false;
    listeners.forEach((listener) => listener(state));
  };
  return {
    values: state,
    head: () => state.preview ?? state.pinned,
    listen: (listener) => listeners.push(listener),
    tell,
    set(changes) {
      if (Object.keys(changes).every((name) => state[name] === changes[name])) return;
      Object.assign(state, changes);
      if (!waiting) {
        waiting = true;
        requestAnimationFrame(tell);
      }
    },
  };
}
