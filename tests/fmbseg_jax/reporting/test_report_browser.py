"""The report in a browser, opened from disk: pictures, console, filters, what the pointer and the keys say, widths."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.worlds.browser import Browser, Page, needs_browser
from tests.worlds.report import evaluated, reported, write_data, write_photos, write_run

pytestmark = [pytest.mark.serial, needs_browser]
DRAWN = (
    "[...document.querySelectorAll('{0} img')].every(i => i.complete && i.naturalWidth) && "
    "[...document.querySelectorAll('{0} canvas')].every(c => c.width > 0)"
)


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    write_photos(folder / "photos")
    data, run = write_data(folder / "data"), write_run(folder / "run", str(folder / "photos"))
    evaluated(data, run)
    assert reported(data, run, folder / "out") == 0
    return folder / "out"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def desk(out: Path, browser: Browser) -> Page:
    return browser.open((out / "index.html").as_uri(), 1400, 1000)


@pytest.fixture(autouse=True)
def no_error(desk: Page) -> Iterator[None]:
    """Whatever a test does, the console stays empty."""
    desk.errors.clear()
    yield
    desk.evaluate("document.getElementById('photo').close()")
    assert desk.errors == []


def texts(page: Page, selector: str) -> list[str]:
    found: list[str] = page.evaluate(f"[...document.querySelectorAll({selector!r})].map(e => e.textContent)")
    return found


def test_every_picture_is_loaded(desk: Page) -> None:
    assert desk.evaluate("document.querySelectorAll('#gallery .card').length") == 7
    for i in range(7):
        desk.evaluate(f"document.querySelectorAll('#gallery .card')[{i}].scrollIntoView({{behavior: 'instant'}})")
        card = f"#gallery .card:nth-of-type({i + 1})"
        desk.wait(f"document.querySelectorAll('{card} canvas').length === 2 && " + DRAWN.format(card))


def test_figures_are_on_the_page(desk: Page) -> None:
    assert ".620" in desk.evaluate("document.querySelector('tr.strong').textContent")
    assert texts(desk, "#bars .bar > button") == ["grass", "ball", "box"]
    assert any("grass taken for box: 4" in text for text in texts(desk, "ol.pairs button"))
    assert texts(desk, "#failures li") == ["<b>bad</b>.png no picture; take it away"]
    assert "dir/<i>&'p3" in texts(desk, ".card .top button")


def test_the_filter_shows_the_photos_of_a_class(desk: Page) -> None:
    desk.evaluate("document.querySelector('#legend .chip[data-class=\"2\"]').click()")
    assert sorted(texts(desk, ".card .top button")) == ["dir/<i>&'p3", "p1", "p2", "p4", "t1"]
    assert desk.evaluate("document.getElementById('shown').textContent") == "5 photos of 7"
    desk.evaluate("document.querySelector('#legend .chip[data-class=\"2\"]').click()")
    assert len(texts(desk, ".card .top button")) == 7
    desk.evaluate("showPair(0, 2)")
    assert texts(desk, ".card .top button") == ["p4", "dir/<i>&'p3", "p2", "p1"]  # most of it first
    desk.evaluate("go({pair: null})")


@pytest.mark.parametrize(("order", "first"), [("worst", "p4"), ("best", "p0"), ("name", "dir/<i>&'p3")])
def test_photos_stand_in_the_order_asked_for(desk: Page, order: str, first: str) -> None:
    desk.evaluate(f"(() => {{ const s = document.getElementById('order'); s.value = '{order}'; "
             "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert texts(desk, ".card .top button")[0] == first


def test_the_pointer_and_the_keys_name_the_class(desk: Page) -> None:
    desk.evaluate("show('eval-2')")
    desk.wait("document.querySelectorAll('#photo .pic').length === 12")
    heads = texts(desk, "#photo figcaption > b")
    assert heads == ["Photo", "CLIP (naclip)", "Head", "Query points", "Dense CLIP", "Stage 1.1", "Stage 1.2",
                     "Free labels", "Head", "Refined", "Truth", "Mistakes of the head"]  # fmt: skip
    desk.evaluate("document.querySelectorAll('#photo .pic').forEach((p, i) => p.id = `pic${i}`)")
    desk.hover("#pic8", 0.75, 1 / 3)
    desk.wait("document.getElementById('tip').textContent === 'ball'")
    desk.hover("#pic8", 4 / 64, 4 / 48)
    desk.wait("document.getElementById('tip').textContent === 'box'")
    said = texts(desk, "#photo figcaption .at")
    assert desk.evaluate("document.getElementById('photo').contains(TIP)"), (
        "what is outside of an open dialog lies below it"
    )
    assert said[8:] == ["box", "grass", "grass", "box"] and said[2].startswith("cosine 0.0")
    desk.evaluate("document.getElementById('pic8').focus()")
    for _ in range(12):
        desk.press("ArrowDown")
    assert desk.evaluate("document.getElementById('live').textContent") == "grass"
    assert desk.evaluate("document.querySelectorAll('#pic3 polygon').length") > 0
    assert "was detected" in desk.evaluate("document.querySelector('.verdict').textContent")


def test_arrows_go_from_photo_to_photo(desk: Page) -> None:
    desk.evaluate("go({order: 'worst'})")
    desk.evaluate("document.querySelector('.card .top button').click()")
    desk.wait("document.getElementById('which')?.textContent.startsWith('p4')")
    desk.evaluate("document.querySelector('#photo .head button:last-child').focus()")
    desk.press("ArrowRight")
    desk.wait("document.getElementById('which').textContent.startsWith('dir/')")
    assert desk.evaluate("location.hash") == "#photo=eval-3"
    desk.evaluate("document.getElementById('photo').close()")
    desk.wait("location.hash === ''")


def test_everything_has_a_name_for_those_who_do_not_see_it(desk: Page) -> None:
    desk.evaluate("show('eval-4')")
    desk.wait("document.querySelectorAll('#photo canvas').length > 8")
    unnamed = (
        "[...document.querySelectorAll('img, canvas, button, select, input, svg')].filter(e => !(e.alt || "
        "e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label') || e.ariaHidden === 'true'))"
        ".map(e => e.outerHTML)"
    )
    assert desk.evaluate(unnamed) == []
    assert desk.evaluate("document.querySelector('.matrix button').getAttribute('aria-label')").endswith(
        "of ball is taken for grass"
    )


@pytest.mark.parametrize(("width", "dark"), [(390, True), (800, False)])
def test_no_width_is_too_small(out: Path, browser: Browser, width: int, dark: bool) -> None:
    page = browser.open((out / "index.html").as_uri(), width, 844, dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("show('eval-1')")
    page.wait("document.querySelectorAll('#photo .pic').length === 12")
    assert page.evaluate("document.getElementById('photo').scrollWidth") <= width
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == ("rgb(20, 23, 26)" if dark else "rgb(251, 251, 249)")
    assert page.errors == []
    page.close()


def test_a_photo_whose_file_is_gone_is_said(out: Path, desk: Page) -> None:
    file = out / "files/train-0.js"
    kept = file.read_bytes()
    file.unlink()
    desk.evaluate("held.delete('train-0'); show('train-0')")
    desk.wait("document.getElementById('photo').textContent.includes('files/train-0.js cannot be read')")
    file.write_bytes(kept)
    desk.errors = [error for error in desk.errors if "FILE_NOT_FOUND" not in error]
