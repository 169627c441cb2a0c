"""Scenes of the pocket world: small pictures with exact truth, drawn from a seed.

    python -m pocket.scenes --out=SCENES [--seed=0] [--train=N --eval=N --held_out=N]

A scene is one `Layout` (which stuff and things, where) rendered by `render` (textures, colours, light, noise). The same
layout rendered twice gives restyled twins: equal truth, no pixel alike. Seed 0 belongs to SCENES; the pocket models are
trained on scenes of other seeds.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from labelgen.core.command import command, command_line, parser, whole
from labelgen.core.files import naming
from labelgen.core.progress import Progress
from pocket.shapes import REACH, SHAPES, Coordinates
from pocket.textures import STUFF_TEXTURES, THING_PATTERNS, light, paint, smooth_noise

STUFF = ("grass", "sand", "water", "brick", "sky", "wood")
THINGS = ("ball", "star", "ring", "box", "flag", "house")
CLASSES = STUFF + THINGS
WORDS: dict[str, tuple[str, ...]] = {
    "grass": ("grass", "lawn", "meadow"),
    "sand": ("sand", "beach", "desert"),
    "water": ("water", "sea", "lake"),
    "brick": ("brick", "wall", "masonry"),
    "sky": ("sky", "clouds", "heaven"),
    "wood": ("wood", "planks", "timber"),
    "ball": ("ball", "sphere", "globe"),
    "star": ("star", "pentagram", "asterisk"),
    "ring": ("ring", "hoop", "loop"),
    "box": ("box", "crate", "cube"),
    "flag": ("flag", "banner", "pennant"),
    "house": ("house", "home", "cottage"),
}
SPLITS = ("train", "eval", "held_out")
HELD_OUT_PAIRS = frozenset((thing, STUFF[(k + step) % len(STUFF)]) for k, thing in enumerate(THINGS) for step in (0, 3))
DEFAULT_COUNTS = {"train": 300, "eval": 150, "held_out": 100}

_TURNS = {"flag": 20.0, "house": 15.0}  # things that stand upright: largest tilt in degrees
_STUFF_TURNS = {"grass": 35.0, "water": 30.0, "brick": 25.0, "wood": 90.0}
_TYPICAL = 0.8  # share of things that wear their class's pattern
_SMALLEST = 26.0  # radius in px


@dataclass(frozen=True)
class Thing:
    """A thing's place: class name, centre and radius in px, rotation in radians."""

    name: str
    centre_yx: tuple[float, float]
    radius_px: float
    angle: float


@dataclass(frozen=True)
class Layout:
    """What is where: regions uint16 [H, W]; region r < len(stuffs) is stuff, the others are things in drawing order."""

    kind: str
    stuffs: tuple[str, ...]
    things: tuple[Thing, ...]
    regions: NDArray[np.uint16]

    @property
    def mask(self) -> NDArray[np.uint8]:
        """Class indices uint8 [H, W]."""
        names = self.stuffs + tuple(thing.name for thing in self.things)
        return np.array([CLASSES.index(name) for name in names], np.uint8)[self.regions]


@dataclass(frozen=True)
class Scene:
    """photo uint8 [H, W, 3] RGB; mask uint8 [H, W] index in CLASSES; regions uint16 [H, W]; kind portrait or wide."""

    photo: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    regions: NDArray[np.uint16]
    kind: str


def draw(seed: int, index: int, split: str = "train") -> Scene:
    """Scene number `index` of a split: a pure function of its arguments.

    Raises:
        ValueError: split is none of SPLITS.
    """
    rng = scene_rng(seed, index, split)
    return render(draw_layout(rng, split), rng)


def scene_rng(seed: int, index: int, split: str) -> np.random.Generator:
    """The generator from which `draw` makes a scene. Raises ValueError for an unknown split."""
    if split not in SPLITS:
        raise ValueError(f"split {split!r} is none of {', '.join(SPLITS)}")
    return np.random.default_rng([seed, SPLITS.index(split), index])


def draw_layout(rng: np.random.Generator, split: str = "train") -> Layout:
    """A layout: half portraits (one thing on one stuff), half wide scenes (2-3 stuffs, 1-4 things)."""
    height, width = (int(n) for n in rng.integers(160, 225, 2))
    if rng.random() < 0.5:
        return _portrait(rng, split, (height, width))
    return _wide(rng, split, (height, width))


def _portrait(rng: np.random.Generator, split: str, size_hw: tuple[int, int]) -> Layout:
    stuff = str(rng.choice(STUFF))
    height, width = size_hw
    centre = (height * rng.uniform(0.42, 0.58), width * rng.uniform(0.42, 0.58))
    thing = _thing(rng, str(rng.choice(_partners(stuff, split))), centre, rng.uniform(36, 55))
    regions = np.zeros(size_hw, np.uint16)
    regions[_window(thing, size_hw)][_silhouette(thing, size_hw)] = 1
    return Layout("portrait", (stuff,), (thing,), regions)


def _wide(rng: np.random.Generator, split: str, size_hw: tuple[int, int]) -> Layout:
    stuffs = tuple(str(name) for name in rng.permutation(STUFF)[: rng.integers(2, 4)])
    ground = _ground(rng, size_hw, len(stuffs))
    regions = ground.copy()
    things: list[Thing] = []
    thing_count = rng.integers(1, 5)
    for _ in range(40):
        thing = _place(rng, split, stuffs, ground, things)
        if thing is not None:
            things.append(thing)
            regions[_window(thing, size_hw)][_silhouette(thing, size_hw)] = len(stuffs) + len(things) - 1
        if len(things) == thing_count:
            break
    return Layout("wide", stuffs, tuple(things), regions)


def _ground(rng: np.random.Generator, size_hw: tuple[int, int], count: int) -> NDArray[np.uint16]:
    """Warped bands or warped patches of `count` stuffs: uint16 [H, W]."""
    y, x = np.ogrid[-1 : 1 : size_hw[0] * 1j, -1 : 1 : size_hw[1] * 1j]
    warp = 0.16 * smooth_noise(rng, size_hw, 5)
    if rng.random() < 0.65:
        angle = rng.uniform(-np.pi, np.pi)
        across = x * np.sin(angle) + y * np.cos(angle) + warp
        cuts = np.array([0.0]) if count == 2 else np.array([-0.4, 0.4])
        return np.asarray(np.searchsorted(cuts + rng.uniform(-0.15, 0.15, cuts.size), across).astype(np.uint16))
    turn = rng.uniform(0, 2 * np.pi) + 2 * np.pi * np.arange(count) / count
    centres = 0.6 * np.stack([np.sin(turn), np.cos(turn)], 1) + rng.uniform(-0.15, 0.15, (count, 2))
    distances = [np.hypot(y - cy, x - cx) + warp * (-1) ** k for k, (cy, cx) in enumerate(centres)]
    return np.asarray(np.argmin(distances, 0).astype(np.uint16))


def _place(
    rng: np.random.Generator, split: str, stuffs: Sequence[str], ground: NDArray[np.uint16], others: Sequence[Thing]
) -> Thing | None:
    """One try at a thing that hides little of the others and stands on allowed stuff only; None where it fails."""
    height, width = ground.shape
    radius = rng.uniform(_SMALLEST, 42)
    centre = tuple(float(rng.uniform(0.9 * radius, size - 0.9 * radius)) for size in (height, width))
    if any(np.hypot(*np.subtract(centre, o.centre_yx)) < 0.85 * (radius + o.radius_px) for o in others):
        return None
    under = stuffs[ground[int(centre[0]), int(centre[1])]]
    thing = _thing(rng, str(rng.choice(_partners(under, split))), (centre[0], centre[1]), radius)
    covered = np.unique(ground[_window(thing, (height, width))][_silhouette(thing, (height, width))])
    allowed = all(thing.name in _partners(stuffs[r], split) for r in covered)
    return thing if allowed else None


def _partners(stuff: str, split: str) -> tuple[str, ...]:
    """The things that a split puts on a stuff."""
    held_out = split == "held_out"
    return tuple(thing for thing in THINGS if ((thing, stuff) in HELD_OUT_PAIRS) == held_out)


def _thing(rng: np.random.Generator, name: str, centre_yx: tuple[float, float], radius_px: float) -> Thing:
    tilt = np.radians(_TURNS.get(name, 180.0))
    return Thing(name, centre_yx, float(radius_px), float(rng.uniform(-tilt, tilt)))


def _window(thing: Thing, size_hw: tuple[int, int]) -> tuple[slice, slice]:
    """The rectangle of the picture outside which the thing has no pixel."""
    reach = REACH * thing.radius_px
    rows, columns = (
        slice(max(0, int(c - reach)), min(size, int(c + reach) + 2))
        for c, size in zip(thing.centre_yx, size_hw, strict=True)
    )
    return rows, columns


def _frame(thing: Thing, size_hw: tuple[int, int]) -> tuple[Coordinates, Coordinates]:
    """u, v float32 in px over the thing's window: its own frame, origin at its centre."""
    rows, columns = _window(thing, size_hw)
    y = (np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5 - np.float32(thing.centre_yx[0]))[:, None]
    x = (np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5 - np.float32(thing.centre_yx[1]))[None]
    return _rotate(x, y, thing.angle)


def _rotate(x: Coordinates, y: Coordinates, angle: float) -> tuple[Coordinates, Coordinates]:
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * cos + y * sin, y * cos - x * sin


def _silhouette(thing: Thing, size_hw: tuple[int, int]) -> NDArray[np.bool_]:
    """bool over the thing's window."""
    u, v = _frame(thing, size_hw)
    return SHAPES[thing.name](u / np.float32(thing.radius_px), v / np.float32(thing.radius_px))


def render(layout: Layout, rng: np.random.Generator) -> Scene:
    """A picture of the layout: fresh textures, free colours, a gradient of light, noise."""
    size_hw = (layout.regions.shape[0], layout.regions.shape[1])
    canvas = np.zeros((*size_hw, 3), np.float32)
    for region, name in enumerate(layout.stuffs):
        inside = layout.regions == region
        canvas[inside] = _stuff_colours(rng, name, size_hw)[inside]
    for region, thing in enumerate(layout.things, len(layout.stuffs)):
        window = _window(thing, size_hw)
        inside = layout.regions[window] == region
        canvas[window][inside] = _thing_colours(rng, thing, size_hw)[inside]
    photo = canvas * light(rng, size_hw)[..., None]
    photo += rng.uniform(0.008, 0.03) * rng.standard_normal(photo.shape, dtype=np.float32)
    pixels = (np.clip(photo, 0, 1) * 255 + 0.5).astype(np.uint8)
    return Scene(pixels, layout.mask, layout.regions, layout.kind)


def _stuff_colours(rng: np.random.Generator, name: str, size_hw: tuple[int, int]) -> Coordinates:
    tilt = np.radians(_STUFF_TURNS.get(name, 180.0))
    scale = np.float32(rng.uniform(0.85, 1.25))
    y = (np.arange(size_hw[0], dtype=np.float32) * scale + np.float32(rng.uniform(0, 256)))[:, None]
    x = (np.arange(size_hw[1], dtype=np.float32) * scale + np.float32(rng.uniform(0, 256)))[None]
    return paint(rng, STUFF_TEXTURES[name](rng, *_rotate(x, y, rng.uniform(-tilt, tilt))))


def _thing_colours(rng: np.random.Generator, thing: Thing, size_hw: tuple[int, int]) -> Coordinates:
    wear = thing.name if rng.random() < _TYPICAL else str(rng.choice(list(THING_PATTERNS)))
    scale = np.float32(rng.uniform(0.9, 1.2))
    u, v = _frame(thing, size_hw)
    painted = paint(rng, THING_PATTERNS[wear](rng, u * scale, v * scale, thing.radius_px * float(scale)))
    if thing.name == "ball":  # a sphere: darker towards its lower right edge
        painted *= (1 - 0.35 * np.clip((u + v) / (1.4 * thing.radius_px), -0.4, 1))[..., None]
    return painted


def write(out: str | Path, seed: int, counts: dict[str, int]) -> None:
    """Writes photos/SPLIT/00000.png, masks/SPLIT/00000.png (mode L, class indices) and words/SPLIT.txt under out."""
    progress = Progress(sum(counts.values()), "scenes", "draw")
    for split, count in counts.items():
        for kind in ("photos", "masks"):
            os.makedirs(Path(out, kind, split), exist_ok=True)
        for index in range(count):
            scene = draw(seed, index, split)
            _save(scene.photo, Path(out, "photos", split, f"{index:05d}.png"))
            _save(scene.mask, Path(out, "masks", split, f"{index:05d}.png"))
            progress.add()
        Path(out, "words").mkdir(exist_ok=True)
        Path(out, "words", f"{split}.txt").write_text(words_file(split), encoding="utf-8")
    progress.close()


def _save(pixels: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(pixels).save(data := io.BytesIO(), "PNG")
    with naming(path):
        path.write_bytes(data.getvalue())


def words_file(split: str) -> str:
    """The words of a split, one class a line: the trained word, for held_out its synonyms instead."""
    if split == "held_out":
        return "".join(f"{name}: {', '.join(words[1:])}\n" for name, words in WORDS.items())
    return "".join(f"{name}: {words[0]}\n" for name, words in WORDS.items())


def main(args: argparse.Namespace) -> int:
    """Draws the splits."""
    counts = {split: getattr(args, split) for split in SPLITS}
    write(args.out, args.seed, counts)
    total = ", ".join(f"{count} {split}" for split, count in counts.items())
    config = "--config=configs/pocket.py", f"--config.photos.root={args.out}"
    follow = command_line("labelgen.run", *config, "--out=DATA")
    print(f"wrote {total} scenes to {args.out}; next: {follow}")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m pocket.scenes`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", required=True, metavar="SCENES", help="folder to write to")
    flags.add_argument("--seed", type=int, default=0, help="other seeds draw other scenes (0)")
    for split, count in DEFAULT_COUNTS.items():
        flags.add_argument(f"--{split}", type=whole(0), default=count, metavar="N", help=f"scenes of {split} ({count})")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
