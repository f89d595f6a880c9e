const BOARD_GAP = 12;
const CAPTION = 24; // CSS pixels under a picture
const SMALLEST = 96; // of a picture's width; more pictures than fit are scrolled

/** Width of each picture so that all are as large as the board allows, in CSS pixels. */
function pictureWidth(width, height, aspects) {
  const tallest = Math.max(...aspects);
  let best = 0;
  for (let columns = 1; columns <= aspects.length; columns += 1) {
    const lines = Math.ceil(aspects.length / columns);
    const across = (width - BOARD_GAP * (columns - 1)) / columns;
    const down = (height - BOARD_GAP * (lines - 1)) / lines - CAPTION;
    best = Math.max(best, Math.min(across, down / tallest));
  }
  return Math.floor(Math.min(width, Math.max(best, Math.min(SMALLEST, width))));
}

/** The pictures with the attention of the active head. */
function makeBoard(scene, state) {
  const root = document.getElementById("board");
  const tip = document.getElementById("tip");
  const table = colorTable("inferno");
  const pictures = scene.pictures.map((picture) => makePicture(picture, scene));
  root.append(...pictures.map((picture) => picture.node));
  drawScale(document.getElementById("scale"), table);

  function highestOf(head) {
    return (state.values.scale === "shared" ? scene.sharedMaximum : scene.heads.maximum[head]) || 1;
  }

  function paint() {
    const head = state.head();
    const highest = highestOf(head);
    const codes = scene.rowOf.get(head);
    pictures.forEach((picture) => picture.paint(codes, scene.heads.maximum[head], highest, table));
    setTicks(document.getElementById("scale-ticks"), highest);
    for (const name of ["attention", "evidence", "grid"]) root.classList.toggle(name, state.values[name]);
    root.classList.toggle("no-row", !codes);
  }

  function layOut() {
    const style = getComputedStyle(root);
    const width = root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight);
    const height = root.clientHeight - parseFloat(style.paddingTop) - parseFloat(style.paddingBottom);
    const each = pictureWidth(width, height, pictures.map((picture) => picture.aspect));
    pictures.forEach((picture) => picture.resize(each));
    paint();
  }

  function hide() {
    tip.hidden = true;
    pictures.forEach((picture) => picture.point(null));
  }

  function point(event) {
    const picture = pictures.find(({ node }) => node.querySelector(".stage").contains(event.target));
    const codes = scene.rowOf.get(state.head());
    const token = picture ? picture.tokenAt(event, codes) : null;
    if (token === null) return hide();
    pictures.forEach((each) => each.point(token));
    tip.textContent = tokenSentence(scene, state.head(), token);
    tip.hidden = false;
    const { offsetWidth: width, offsetHeight: height } = tip;
    const left = Math.min(event.clientX + 14, window.innerWidth - width - 8);
    const below = event.clientY + 18 + height < window.innerHeight;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${below ? event.clientY + 18 : event.clientY - height - 12}px`;
  }

  root.addEventListener("pointermove", point);
  root.addEventListener("pointerdown", point);
  root.addEventListener("pointerleave", hide);
  root.addEventListener("scroll", hide);
  new ResizeObserver(layOut).observe(root);
  state.listen(paint);
  return { shows: (token) => pictures.some((picture) => picture.shows(token)) };
}

/** A token's number, attention and place in words. */
function tokenSentence(scene, head, token) {
  const codes = scene.rowOf.get(head);
  const value = codes ? formatShare(decoded(codes[token], scene.heads.maximum[head])) : "left out of this page";
  const kind = scene.counted[token] ? ", evidence" : "";
  return `Token ${token} of ${scene.columns.length}${kind}: attention ${value} (column ${scene.columns[token]})`;
}
