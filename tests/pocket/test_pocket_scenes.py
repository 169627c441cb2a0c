"""The pocket world: a pure function of the seed, exact truth, held-out pairs kept apart, no help from colour."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pocket import scenes
from pocket.scenes import CLASSES, HELD_OUT_PAIRS, SPLITS, STUFF, THINGS, WORDS, Layout
from tests.worlds.paths import ROOT

COUNT = 80


def layouts(split: str) -> list[Layout]:
    return [scenes.draw_layout(scenes.scene_rng(5, i, split), split) for i in range(COUNT)]


def pairs(split: str, monkeypatch: pytest.MonkeyPatch) -> set[tuple[str, str]]:
    """(thing, stuff below one of its visible pixels) of all layouts; the ground is caught before things are drawn."""
    grounds: list[np.ndarray] = []
    original = scenes._ground
    monkeypatch.setattr(scenes, "_ground", lambda *a: grounds.append(original(*a)) or grounds[-1])
    found = set()
    for i in range(COUNT):
        grounds.clear()
        layout = scenes.draw_layout(scenes.scene_rng(5, i, split), split)
        ground = grounds[0] if grounds else np.zeros_like(layout.regions)
        for region, thing in enumerate(layout.things, len(layout.stuffs)):
            found |= {(thing.name, layout.stuffs[r]) for r in np.unique(ground[layout.regions == region])}
    return found


def test_a_scene_is_a_pure_function_of_seed_index_and_split() -> None:
    first = scenes.draw(3, 7)
    again = scenes.draw(3, 7)
    assert first.photo.tobytes() == again.photo.tobytes()
    assert first.mask.tobytes() == again.mask.tobytes()
    others = [scenes.draw(4, 7), scenes.draw(3, 8), scenes.draw(3, 7, "eval")]
    assert all(first.photo.tobytes() != other.photo.tobytes() for other in others)


def test_an_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match="split 'test' is none of train, eval, held_out"):
        scenes.draw(0, 0, "test")


def test_shapes_types_and_values() -> None:
    for i in range(20):
        scene = scenes.draw(1, i)
        height, width = scene.mask.shape
        assert 160 <= height <= 224 and 160 <= width <= 224
        assert scene.photo.shape == (height, width, 3) and scene.photo.dtype == np.uint8
        assert scene.mask.dtype == np.uint8 and scene.mask.max() < len(CLASSES)
        assert scene.regions.dtype == np.uint16 and scene.kind in ("portrait", "wide")


class Silent(np.random.Generator):
    """A generator whose noise is zero."""

    def standard_normal(self, size=None, dtype=np.float64):  # type: ignore[no-untyped-def, override]
        return np.zeros(size, dtype)


def test_the_mask_is_exact_to_the_pixel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each region painted in a grey of its own, no light, no noise: photo and regions agree in every pixel."""
    greys = iter(())
    monkeypatch.setattr(scenes, "paint", lambda rng, tone: np.full((*tone.shape, 3), next(greys) / 255, np.float32))
    monkeypatch.setattr(scenes, "light", lambda rng, size_hw: np.ones(size_hw, np.float32))
    for layout in layouts("train")[:30]:
        greys = iter(range(30, 256, 30))
        scene = scenes.render(layout, Silent(np.random.PCG64(0)))
        balls = [r for r, t in enumerate(layout.things, len(layout.stuffs)) if t.name == "ball"]  # shaded, not flat
        flat = ~np.isin(layout.regions, balls)
        assert (scene.photo[flat] == 30 * (layout.regions[flat] + 1)[:, None]).all()


def test_the_mask_names_the_layouts_classes() -> None:
    for layout in layouts("train")[:20]:
        names = layout.stuffs + tuple(thing.name for thing in layout.things)
        for region, name in enumerate(names):
            assert (layout.mask[layout.regions == region] == CLASSES.index(name)).all()
        assert layout.regions.max() < len(names)


def test_twins_share_the_truth_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    layout = scenes.draw_layout(rng)
    one, two = scenes.render(layout, rng), scenes.render(layout, rng)
    assert (one.mask == two.mask).all() and (one.regions == two.regions).all()
    assert np.abs(one.photo.astype(int) - two.photo).mean() > 10


def test_held_out_pairs_appear_in_held_out_only(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {split: pairs(split, monkeypatch) for split in SPLITS}
    assert not seen["train"] & HELD_OUT_PAIRS
    assert not seen["eval"] & HELD_OUT_PAIRS
    assert seen["held_out"] and seen["held_out"] <= HELD_OUT_PAIRS
    assert {thing for thing, _ in seen["train"]} == set(THINGS) == {thing for thing, _ in seen["held_out"]}


def test_portraits_and_wide_scenes_and_things_of_many_sizes() -> None:
    drawn = layouts("train")
    portraits = [layout for layout in drawn if layout.kind == "portrait"]
    assert 0.35 < len(portraits) / len(drawn) < 0.65
    assert all(len(layout.stuffs) == len(layout.things) == 1 for layout in portraits)
    wide = [layout for layout in drawn if layout.kind == "wide"]
    assert all(2 <= len(layout.stuffs) <= 3 for layout in wide)
    assert max(len(layout.things) for layout in wide) >= 3
    radii = np.array([thing.radius_px for layout in drawn for thing in layout.things])
    assert radii.min() >= 26 and radii.max() <= 55 and radii.std() > 6


def test_every_class_covers_enough() -> None:
    share = np.mean([np.bincount(x.mask.ravel(), minlength=len(CLASSES)) / x.mask.size for x in layouts("train")], 0)
    assert share.min() > 0.015, dict(zip(CLASSES, share.round(3), strict=True))


def colours(region: np.ndarray) -> np.ndarray:
    """Histogram of 4 x 4 x 4 colours of pixels uint8 [n, 3]."""
    cells = (region // 64) @ np.array([16, 4, 1])
    return np.bincount(cells, minlength=64) / len(region)


def test_colour_alone_tells_little() -> None:
    """The nearest region by colour histogram names fewer than four in ten stuff regions right (chance: one in six)."""
    rows, names = [], []
    for i in range(200):
        scene = scenes.draw(2, i)
        for region in range(int(scene.regions.max()) + 1):
            inside = scene.regions == region
            name = int(scene.mask[inside][0]) if inside.sum() > 300 else len(CLASSES)
            if name < len(STUFF):
                rows.append(colours(scene.photo[inside]))
                names.append(name)
    half = len(rows) // 2
    known, asked = np.array(rows[:half]), np.array(rows[half:])
    nearest = np.argmin(((asked[:, None] - known[None]) ** 2).sum(-1), 1)
    assert (np.array(names)[:half][nearest] == np.array(names)[half:]).mean() < 0.4


def test_words_are_one_list_without_repetition() -> None:
    assert tuple(WORDS) == CLASSES == STUFF + THINGS
    words = [word for group in WORDS.values() for word in group]
    assert len(words) == len(set(words)) and all(len(group) == 3 for group in WORDS.values())
    trained = {line.split(": ")[1] for line in scenes.words_file("train").splitlines()}
    others = {w for line in scenes.words_file("held_out").splitlines() for w in line.split(": ")[1].split(", ")}
    assert trained == {group[0] for group in WORDS.values()} and not trained & others


@pytest.mark.parametrize(("name", "split"), [("pocket", "train"), ("pocket_held_out", "held_out")])
def test_the_shipped_words_are_the_worlds(name: str, split: str) -> None:
    text = (ROOT / f"configs/words/{name}.txt").read_text()
    assert [line for line in text.splitlines() if not line.startswith("#")] == scenes.words_file(split).splitlines()


def test_the_command_writes_what_draw_draws(tmp_path: Path) -> None:
    counts = ["--train=2", "--eval=1", "--held_out=1"]
    subprocess.run([sys.executable, "-m", "pocket.scenes", f"--out={tmp_path}", *counts], check=True)
    assert sorted(p.name for p in (tmp_path / "photos" / "train").iterdir()) == ["00000.png", "00001.png"]
    for split, index in (("train", 1), ("eval", 0), ("held_out", 0)):
        scene = scenes.draw(0, index, split)
        photo = np.asarray(Image.open(tmp_path / "photos" / split / f"{index:05d}.png"))
        mask = Image.open(tmp_path / "masks" / split / f"{index:05d}.png")
        assert mask.mode == "L" and (np.asarray(mask) == scene.mask).all() and (photo == scene.photo).all()
        assert (tmp_path / "words" / f"{split}.txt").read_text() == scenes.words_file(split)
