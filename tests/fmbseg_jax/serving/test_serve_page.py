"""The page in a real browser: a photo in, names under the pointer, other words, refusals said, no console error."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fmbseg_jax.inference.segmenter import Segmenter
from fmbseg_jax.serving.session import Photos
from tests.worlds import tiny_models, tiny_run
from tests.worlds.browser import Browser, Page, needs_browser
from tests.worlds.serving import serving
from tests.worlds.tiny_run import picture

pytestmark = [pytest.mark.serial, needs_browser]
LEGEND = "[...document.querySelectorAll('#legend .word')].map(e => e.textContent)"
NAME = "document.querySelector('#name')"
ERROR = "document.querySelector('#error')"
WORDS_ERROR = "document.querySelector('#words-error')"


@pytest.fixture(scope="module")
def segmenter(tmp_path_factory: pytest.TempPathFactory) -> Segmenter:
    weights = tiny_models.write(tmp_path_factory.mktemp("weights"))
    return Segmenter.restore(tiny_run.write(tmp_path_factory.mktemp("run"), weights))


@pytest.fixture(scope="module")
def photos(segmenter: Segmenter) -> Photos:
    return Photos(segmenter)


@pytest.fixture(scope="module")
def url(photos: Photos) -> Iterator[str]:
    with serving(photos) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as browser:
        yield browser


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    picture(90, 130, 3).save(tmp_path / "spots.png")
    return tmp_path / "spots.png"


def opened(browser: Browser, url: str, photo: Path, **options: Any) -> Page:
    """The page with a photo on it, named."""
    page = browser.open(url, **options)
    page.wait("document.querySelector('#words').value")
    page.choose("#file", photo)
    page.wait(f"{LEGEND}.length")
    return page


def spot(mask: np.ndarray) -> tuple[float, float]:
    """The middle, as shares of height and width, of one of the widest places of a mask [H, W]."""
    inside = Image.fromarray(mask).convert("L")
    while (smaller := inside.filter(ImageFilter.MinFilter(3))).getextrema()[1]:
        inside = smaller
    y, x = np.argwhere(np.asarray(inside))[0]
    return (y + 0.5) / mask.shape[0], (x + 0.5) / mask.shape[1]


def at(label_map: np.ndarray, x: float, y: float) -> int:
    return int(label_map[int(y * label_map.shape[0]), int(x * label_map.shape[1])])


def test_the_name_under_the_pointer_is_the_segmenters(
    browser: Browser, url: str, photo: Path, segmenter: Segmenter
) -> None:
    page, wanted = opened(browser, url, photo), segmenter(photo)
    assert page.evaluate("document.querySelector('#words').value") == "ball\nbox: box, crate"
    assert page.evaluate(LEGEND) == list(wanted.shares)
    assert set(wanted.shares) == {"ball", "box"}
    for i in (0, 1, 0):
        y, x = spot(wanted.label_map == i)
        page.hover("#masks", x, y)
        page.wait(f"!{NAME}.hidden && {NAME}.textContent === {wanted.names[i]!r}")
    assert page.evaluate("document.querySelector('#photo').naturalWidth") == 130
    assert page.evaluate("document.querySelector('#masks').getAttribute('aria-label')").startswith("Masks: ")
    assert page.errors == []
    page.close()


def test_other_words_a_threshold_and_hiding(browser: Browser, url: str, photo: Path, segmenter: Segmenter) -> None:
    page = opened(browser, url, photo)
    page.type("#words", "lid: ll\nloo: boo, ooo\nbox")
    wanted = segmenter(photo, ["lid: ll", "loo: boo, ooo", "box"])
    page.wait(f"{LEGEND}.join() === {','.join(wanted.shares)!r}")
    painted = "document.querySelector('#masks').getContext('2d').getImageData(0, 0, 130, 90).data"
    first = next(iter(wanted.shares))
    page.click("#legend button")
    page.hover("h1")
    page.wait("document.querySelector('#legend button').getAttribute('aria-pressed') === 'false'")
    page.evaluate("document.activeElement.blur()")
    alpha = np.array(page.evaluate(f"[...{painted}]")).reshape(90, 130, 4)[..., 3]
    assert np.array_equal(alpha == 0, wanted.label_map == wanted.names.index(first))
    page.evaluate("(e => { e.value = 60; e.dispatchEvent(new Event('input')); })(document.querySelector('#threshold'))")
    page.wait(f"{LEGEND}.includes('background')")
    page.click("#reset")
    page.wait(f"!{LEGEND}.includes('lid')")
    assert page.errors == []
    page.close()


def test_what_is_wrong_is_said_and_the_photo_stays(browser: Browser, url: str, photo: Path, tmp_path: Path) -> None:
    page = opened(browser, url, photo)
    page.type("#words", "cat\ncat")
    page.wait(f"!{WORDS_ERROR}.hidden && {WORDS_ERROR}.textContent.includes('named twice')")
    page.type("#words", "cat")
    page.wait(f"{WORDS_ERROR}.hidden && {LEGEND}.join() === 'cat'")
    (tmp_path / "notes.png").write_text("no picture")
    page.choose("#file", tmp_path / "notes.png")
    page.wait(f"{ERROR}.textContent.includes('is no picture')")
    with (tmp_path / "large.png").open("wb") as file:
        file.truncate(30_000_000)
    page.choose("#file", tmp_path / "large.png")
    page.wait(f"{ERROR}.textContent.includes('30.0 MB')")
    page.hover("#masks")
    page.wait(f"{NAME}.textContent === 'cat'")
    assert len(page.errors) == 2 and all("status of 400" in error for error in page.errors)  # the two refusals
    page.close()


def test_a_forgotten_photo_is_given_again(browser: Browser, url: str, photo: Path, photos: Photos) -> None:
    page = opened(browser, url, photo)
    photos._photos.clear()
    page.type("#words", "lo")
    page.wait(f"{LEGEND}.join() === 'lo'")
    assert len(page.errors) == 1 and "404" in page.errors[0]
    page.close()


def test_the_keyboard_reads_names_too(browser: Browser, url: str, photo: Path, segmenter: Segmenter) -> None:
    page, wanted = opened(browser, url, photo), segmenter(photo)
    page.evaluate("document.querySelector('#masks').focus()")
    page.press("ArrowRight", 11)
    page.press("ArrowDown", 3)
    name = wanted.names[at(wanted.label_map, 0.5 + 11 * 0.02, 0.5 + 3 * 0.02)]
    page.wait(f"!{NAME}.hidden && {NAME}.textContent === {name!r}")
    assert page.evaluate("document.querySelector('#status').textContent") == name
    page.press("Escape")
    page.wait(f"{NAME}.hidden")
    page.close()


@pytest.mark.parametrize(("width", "dark"), [(390, False), (390, True), (800, True)])
def test_it_fits_a_phone_and_the_dark(width: int, dark: bool, browser: Browser, url: str, photo: Path) -> None:
    page = opened(browser, url, photo, width=width, height=844, dark=dark, phone=width < 500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (max(ground) < 60) if dark else (min(ground) > 200)
    if width < 500:
        page.tap("#masks", 0.3, 0.3)
        page.wait(f"!{NAME}.hidden")
    assert page.errors == []
    page.close()


def test_dropped_and_pasted_photos(browser: Browser, url: str, photo: Path) -> None:
    page = browser.open(url)
    page.wait("document.querySelector('#words').value")
    data = list(photo.read_bytes())
    file = f"new File([new Uint8Array({data})], 'a.png', {{type: 'image/png'}})"
    made = f"(t => (t.items.add({file}), t))(new DataTransfer())"
    page.evaluate(f"document.dispatchEvent(new DragEvent('drop', {{dataTransfer: {made}, cancelable: true}}))")
    page.wait(f"{LEGEND}.length && document.querySelector('#photo').alt === 'a.png'")
    made = made.replace("a.png", "b.png")
    page.evaluate(f"document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: {made}, cancelable: true}}))")
    page.wait("document.querySelector('#photo').alt === 'b.png'")
    assert page.errors == []
    page.close()


def test_the_mask_is_downloaded(browser: Browser, url: str, photo: Path, segmenter: Segmenter, tmp_path: Path) -> None:
    page = opened(browser, url, photo)
    page.call("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    page.evaluate("window.made = 0; const make = URL.createObjectURL; URL.createObjectURL = b => (made = b, make(b))")
    page.click("#download")
    page.wait("made")
    data = bytes(page.evaluate("made.arrayBuffer().then(b => [...new Uint8Array(b)])"))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), segmenter(photo).label_map)
    page.close()
