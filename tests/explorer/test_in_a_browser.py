"""The page as Chromium shows it: what is painted, what mouse and keys do, and that nothing hostile runs."""

import browser
import numpy as np
import pytest
from browser import Reader, chromium
from pages import HOSTILE, example_of, picture, real_size, scene_by_hand

from corehead_hf import Evidence
from corehead_hf.explorer import page_of, write_page
from corehead_hf.families.geometry import GLOBAL, HIRES, concatenate, grid

pytest.importorskip("selenium")
pytestmark = pytest.mark.skipif(bool(browser.missing()), reason=browser.missing())


@pytest.fixture(scope="module")
def driver():
    with chromium() as driver:
        yield driver


@pytest.fixture
def opened(driver, tmp_path):
    """opened(text of a page, ...): it, open and ready."""

    def opened(text, **options):
        write_page(tmp_path / "page.html", text)
        return Reader(driver, tmp_path / "page.html", **options).ready()

    return opened


@pytest.fixture(scope="module")
def colours():
    colormaps = pytest.importorskip("matplotlib").colormaps
    return {name: colormaps[name](np.arange(256), bytes=True)[:, :3].astype(int) for name in ("inferno", "viridis")}


def middles(reader, scene, number, cells=None):
    """RGBA int [C, 4] in the middle of every cell of a picture."""
    heat = reader.pixels(".stage canvas", number)
    boxes = scene.cells[number].boxes if cells is None else cells
    height, width = scene.pictures[number].pixels.shape[:2]
    x = (boxes[:, 0] + boxes[:, 2]) / 2 / width * heat.shape[1]
    y = (boxes[:, 1] + boxes[:, 3]) / 2 / height * heat.shape[0]
    return heat[y.astype(int), x.astype(int)].astype(int)


def nearest(table, rgb):
    return np.abs(table[None] - rgb[:, None, :3]).sum(axis=2).argmin(axis=1)


def hover(reader, scene, head, click=False):
    layers, heads = scene.shape
    reader.point("#map", *reader.map_cell(*divmod(head, heads), layers, heads), click=click)


def test_it_loads_in_silence_and_fetches_nothing(opened, page, scene):
    reader = opened(page.text)
    fetched = [url for url in reader.requests() if not url.startswith("data:")]
    assert len(fetched) == 1 and fetched[0].startswith("file:///") and fetched[0].endswith("page.html")
    assert reader.driver.get_log("browser") == []
    assert reader.text("#question") == scene.example.question and reader.text("#answer") == scene.example.answer
    assert reader.text("#model") == "glyphs-qwen3-vl" and scene.example.question in reader.driver.title
    assert reader.head() == scene.ranking[0] and reader.text("#mode") == "pinned"
    drawn = reader.run("return [...document.querySelectorAll('.stage img')].map((i) => [i.naturalWidth, i.alt])")
    assert drawn == [[64, f"Image {number + 1}"] for number in range(6)]


@pytest.mark.parametrize("scale", ["shared", "own"])
def test_a_hovered_heads_attention_is_painted_where_its_tokens_are(opened, page, scene, colours, scale):
    reader = opened(page.text)
    reader.click(f"input[value={scale}]")
    for head in (scene.ranking[1], scene.ranking[-1], 21):
        hover(reader, scene, int(head))
        assert reader.head() == head and reader.text("#mode") == "preview"
        highest = scene.rows.max() if scale == "shared" else scene.rows[head].max()
        assert float(reader.text("#scale-ticks :last-child")) == pytest.approx(highest, rel=0.05)
        painted = np.concatenate([middles(reader, scene, number) for number in range(6)])
        steps = nearest(colours["inferno"], painted)
        expected = 255 * scene.rows[head] / highest
        # half a step of the code at value v is sqrt(v) / 255; then rounding to a colour, and the canvas's own
        assert np.abs(steps - expected).max() <= 3.5
        hottest = scene.rows[head].argmax()
        assert painted[hottest].sum() == painted.sum(axis=1).max()
        if scale == "own":
            assert np.abs(painted[hottest] - [252, 255, 164, 0.92 * 255]).max() <= 2
            assert painted[scene.rows[head].argmin(), 3] < 0.6 * 255


def test_tokens_fill_their_boxes_exactly(opened, colours):
    """12 x 8 px, 2 x 3 tokens of 4 px: only token 4, at the bottom middle, has attention."""
    example = example_of([picture(8, 12)], Evidence(0, (4, 4, 8, 8)))
    rows = np.zeros((2, 6))
    rows[:, 4] = 0.5, 0.2
    scene = scene_by_hand(example, (grid((8, 12), 2, 3),), rows, (1, 2))
    heat = opened(page_of(scene).text, ratio=2).pixels(".stage canvas")
    hot = heat[..., 0] > 200
    height, width = hot.shape
    rows, columns = np.nonzero(hot)
    assert (rows.min(), rows.max() + 1) == (round(height / 2), height)
    assert (columns.min(), columns.max() + 1) == (round(width / 3), round(width * 2 / 3))
    assert hot.sum() == (height - round(height / 2)) * (round(width * 2 / 3) - round(width / 3))
    assert width >= 1000, "the canvas does not have the screen's own pixels"


def test_views_of_the_whole_do_not_hide_tiles(opened, colours):
    """A token of the whole over four tiles: each place shows the larger of both."""
    geometry = concatenate([grid((8, 8), 2, 2, view=HIRES), grid((8, 8), 1, 1, view=GLOBAL)])
    rows = np.array([[0.4, 0.0, 0.1, 0.0, 0.2], [0.2, 0.2, 0.2, 0.2, 0.4]])
    scene = scene_by_hand(example_of([picture()], Evidence(0)), (geometry,), rows, (1, 2))
    reader = opened(page_of(scene).text)
    tiles = scene.cells[0].boxes[:4]
    steps = nearest(colours["inferno"], middles(reader, scene, 0, tiles))
    assert np.abs(steps - [255, 127.5, 127.5, 127.5]).max() <= 3
    hover(reader, scene, 1)
    assert nearest(colours["inferno"], middles(reader, scene, 0, tiles)).min() >= 254


def test_the_map_shows_the_scores_with_layers_upward(opened, page, scene, colours):
    reader = opened(page.text)
    ratios = {"score": scene.scores, "ram": scene.ram, "vision": scene.vision}
    for metric, values in ratios.items():
        reader.run(
            "const select = document.getElementById('metric'); select.value = arguments[0];"
            "select.dispatchEvent(new Event('change'))",
            metric,
        )
        drawn = reader.settle().pixels("#map-canvas")
        places = [reader.map_cell(*divmod(head, 4), 12, 4) for head in range(48)]
        seen = np.array([drawn[int(y), int(x)] for x, y in places]).astype(int)
        assert np.abs(nearest(colours["viridis"], seen) - 255 * values / values.max()).max() <= 1.5


def test_hovering_previews_and_clicking_pins(opened, page, scene):
    reader = opened(page.text)
    first, other = int(scene.ranking[0]), 30
    hover(reader, scene, other)
    assert reader.head() == other and reader.text("#head-title") == "Layer 7, head 2"
    rank = scene.ranking.tolist().index(other) + 1
    assert reader.text("#rank") == f"rank {rank} of 48"
    ram, times, _ = reader.text("#ram").split()
    assert float(ram) == pytest.approx(scene.ram[other], rel=0.05)
    assert times == f"({scene.ram[other] / scene.chance:.1f}\u00d7"
    assert reader.text("#words") == f"{scene.text[other]:.4f}"
    assert float(reader.text("#visual")) == pytest.approx(scene.vision[other] - scene.ram[other], abs=6e-5)
    assert float(reader.text("#score")) == pytest.approx(scene.scores[other], abs=6e-5)
    token = scene.rows[other].argmax()
    assert f"on token {token}" in reader.text("#largest")
    reader.point("#question", 5, 5)
    assert reader.head() == first and reader.text("#mode") == "pinned"
    hover(reader, scene, other, click=True)
    reader.point("#question", 5, 5)
    assert reader.head() == other and reader.text("#mode") == "pinned"
    assert reader.text("#live").startswith("Pinned: Layer 7, head 2")


def test_keys_move_and_pin(opened, page, scene):
    from selenium.webdriver.common.keys import Keys

    reader = opened(page.text)
    reader.run("document.getElementById('map').focus()")
    first = int(scene.ranking[0])
    assert first == 1
    reader.press(Keys.ARROW_UP, Keys.ARROW_UP, Keys.ARROW_RIGHT)
    assert reader.head() == 10 and reader.text("#mode") == "preview" and "Layer 2, head 2" in reader.text("#live")
    reader.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert reader.head() == 11, "it left the row"
    reader.press(Keys.ESCAPE)
    assert reader.head() == first and reader.text("#mode") == "pinned"
    reader.press(Keys.ARROW_DOWN, Keys.ARROW_LEFT, Keys.ENTER)
    assert reader.head() == 0 and reader.text("#mode") == "pinned"
    reader.press(Keys.END)
    assert reader.head() == 3 and reader.text("#mode") == "preview"
    outline = reader.run("return getComputedStyle(document.getElementById('map')).outlineStyle")
    assert outline == "solid", "focus is not visible"


def test_the_lists_are_the_ends_of_the_ranking(opened, page, scene, shipped):
    reader = opened(page.text)
    listed = [
        reader.run("return [...document.querySelectorAll(arguments[0])].map((b) => Number(b.dataset.head))", query)
        for query in ("#top button", "#bottom button")
    ]
    order = (shipped.head_map.ranking() @ shipped.head_map.ranking().new_tensor([4, 1])).tolist()
    assert listed == [order[:10], order[-10:]]
    labels = reader.run("return [...document.querySelectorAll('#bottom button')].map((b) => b.innerText)")
    layer, head = divmod(order[-1], 4)
    assert labels[-1].split() == ["48", f"L{layer}", f"H{head}", f"{scene.scores[order[-1]]:.4f}"]
    reader.point("#bottom li:last-child button", 10, 8)
    assert reader.head() == order[-1] and reader.text("#mode") == "preview"
    reader.point("#top li:nth-child(3) button", 10, 8, click=True)
    reader.point("#question", 5, 5).run("document.activeElement.blur()")
    assert reader.settle().head() == order[2] and reader.text("#mode") == "pinned"
    pressed = "return [...document.querySelectorAll('.entry[aria-pressed=true]')].map((b) => Number(b.dataset.head))"
    assert reader.run(pressed) == [order[2]]


def test_evidence_and_grid_are_the_boxes_and_can_be_switched(opened, page, scene):
    reader = opened(page.text)
    (part,) = scene.example.evidence
    left, top, right, bottom = (int(edge) for edge in part.box)
    outlines = reader.run("return [...document.querySelectorAll('.stage .boxes')].map((p) => p.getAttribute('d'))")
    assert outlines == [f"M{left} {top}H{right}V{bottom}H{left}Z" if n == part.media else "" for n in range(6)]
    grids = reader.run("return [...document.querySelectorAll('.stage .grid')].map((p) => p.getAttribute('d'))")
    assert grids[0].count("Z") == 16 and grids[0].startswith("M0 0H16V16H0Z")
    views = reader.run("return [...document.querySelectorAll('.stage svg')].map((s) => s.getAttribute('viewBox'))")
    assert views == ["0 0 64 64"] * 6
    seen = "return getComputedStyle(document.querySelector(arguments[0])).display !== 'none'"
    for name, query, at_first in [
        ("evidence", ".stage .boxes", True),
        ("grid", ".stage .grid", False),
        ("attention", ".stage canvas", True),
    ]:
        assert reader.run(seen, query) is at_first
        assert reader.click(f"#show-{name}").run(seen, query) is not at_first


def test_a_tokens_tip_tells_its_number_and_attention(opened, page, scene):
    reader = opened(page.text)
    head = int(scene.ranking[0])
    side = reader.run("return document.querySelector('.stage').clientWidth")
    reader.point(".picture:nth-child(2) .stage", side * 2.5 / 4, side * 1.5 / 4)
    found = reader.text("#tip")
    assert found.startswith("Token 22 of 96, evidence: attention ") and found.endswith(f"(column {scene.columns[22]})")
    value = float(found.split("attention ")[1].split()[0])
    assert value == pytest.approx(scene.rows[head, 22], rel=0.01)
    assert reader.run("return document.querySelectorAll('.pointed')[1].getAttribute('d')") == "M32 16H48V32H32Z"
    reader.point("#question", 5, 5)
    assert reader.run("return document.getElementById('tip').hidden")


def luminance(reader, query, name):
    """Relative luminance of a computed colour, as WCAG 2 has it."""
    text = reader.run("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", query, name)
    channel = np.array([int(n) for n in text[text.index("(") + 1 : -1].split(",")[:3]]) / 255
    return np.where(channel <= 0.04045, channel / 12.92, ((channel + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


def test_light_and_dark(opened, page):
    reader = opened(page.text, scheme="dark")
    ground = {}
    for theme in ("dark", "light"):
        assert reader.run("return document.documentElement.dataset.theme") == theme
        ground[theme] = luminance(reader, "body", "backgroundColor")
        for query, behind in [("#question", "body"), (".label", ".card"), ("#ranked-by", ".card"), ("#rank", "#rank")]:
            dim, bright = sorted([luminance(reader, query, "color"), luminance(reader, behind, "backgroundColor")])
            assert (bright + 0.05) / (dim + 0.05) >= 4.5, f"{query} in {theme} is below contrast AA"
        before = reader.pixels("#map-canvas")
        reader.click("#theme")
        assert (before != reader.pixels("#map-canvas")).any(), "the map's axes keep the other theme's colour"
    assert ground["dark"] < 0.05 and ground["light"] > 0.8
    assert reader.run("return document.documentElement.dataset.theme") == "dark"
    reader.prefer("light")
    assert reader.settle().run("return document.documentElement.dataset.theme") == "dark", "the reader's choice is lost"


def test_the_systems_change_is_followed_until_a_choice(opened, page):
    reader = opened(page.text, scheme="light")
    reader.prefer("dark")
    reader.until("return document.documentElement.dataset.theme === 'dark'")


def test_hostile_texts_do_not_run(opened):
    rows = np.full((4, 4), 0.1)
    facts = ((HOSTILE, HOSTILE),)
    example = example_of([picture()], Evidence(0), question=HOSTILE, answer=HOSTILE)
    texts = {"model": HOSTILE, "dataset": HOSTILE, "facts": facts, "notes": (HOSTILE,)}
    reader = opened(page_of(scene_by_hand(example, (grid((8, 8), 2, 2),), rows, (2, 2), **texts)).text)
    assert reader.run("return typeof hacked") == "undefined" and reader.driver.get_log("browser") == []
    assert reader.run("return [document.scripts.length, document.images.length]") == [2, 1]
    readable = HOSTILE.replace("\ud800", "\ufffd")
    for query in ("#question", "#answer", "#model", "#dataset", "#facts dt", "#facts dd", "#notes p"):
        assert reader.text(query) == readable, query


def test_the_policy_stops_foreign_code_and_the_network(opened, page):
    reader = opened(page.text)
    stopped = reader.driver.execute_async_script(
        """const done = arguments[0], stopped = [];
        document.addEventListener("securitypolicyviolation", (event) => stopped.push(event.effectiveDirective));
        const script = document.createElement("script");
        script.textContent = "window.hacked = 1";
        document.body.append(script);
        document.body.insertAdjacentHTML("beforeend", "<img src=x onerror='window.hacked = 2'>");
        fetch("http://127.0.0.1:9/").catch(() => setTimeout(() => done([stopped, typeof window.hacked]), 50));"""
    )
    assert stopped[1] == "undefined"
    assert {"connect-src", "img-src", "script-src-elem"} <= set(stopped[0])
    assert not [url for url in reader.requests() if url.startswith("http")]


@pytest.mark.parametrize("width, height", [(1280, 800), (390, 844)])
def test_it_fits_the_screen(opened, page, scene, width, height):
    reader = opened(page.text, width=width, height=height)
    across, down = reader.run("const page = document.scrollingElement; return [page.scrollWidth, page.scrollHeight]")
    assert across <= width
    board = "const board = document.getElementById('board'); return board.scrollHeight <= board.clientHeight"
    assert reader.run(board), "the pictures do not fit the board"
    if width == 1280:
        assert down <= height
        return
    reader.run("document.getElementById('map').scrollIntoView({block: 'end'})")
    top, bottom = reader.settle().run(
        "return [document.getElementById('board').getBoundingClientRect().bottom,"
        "document.getElementById('map').getBoundingClientRect().top]"
    )
    assert 0 < top <= bottom, "the pictures are out of sight while a head is chosen"
    hover(reader, scene, 5, click=True)
    assert reader.head() == 5 and reader.text("#map-head") == "Layer 1, head 1"


def test_a_large_page_says_which_heads_it_lacks(opened):
    scene = real_size(side=300)
    page = page_of(scene, max_bytes=2_000_000)
    reader = opened(page.text)
    assert [reader.text(f"#notes p:nth-child({n + 1})") for n in range(len(page.notes))] == list(page.notes)
    lost = int(scene.ranking[len(scene.ranking) // 2])
    hover(reader, scene, lost)
    assert reader.head() == lost and reader.text("#largest") == "Its row was left out of this page"
    assert float(reader.text("#ram").split()[0]) == pytest.approx(scene.ram[lost], rel=0.05, abs=6e-5)
    assert len(np.unique(reader.pixels(".stage canvas")[..., :3].reshape(-1, 3), axis=0)) == 1
    assert reader.driver.get_log("browser") == []


def test_an_old_browser_is_told(driver, page, tmp_path):
    write_page(tmp_path / "page.html", page.text)
    added = driver.execute_cdp_cmd(
        "Page.addScriptToEvaluateOnNewDocument", {"source": "delete window.DecompressionStream"}
    )
    try:
        reader = Reader(driver, tmp_path / "page.html")
        assert "needs a browser of 2023 or later" in reader.text("#notes")
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)
