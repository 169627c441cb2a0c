"""What a 16-bit dtype of the encoders gains on this processor, and what it changes, beside float32: one command.

    python -m benchmarks.labelgen_dtype --size=pocket --photos=6 [--out=F.json]
    python -m benchmarks.labelgen_dtype --size=official --photos=3 --repeats=3 --scratch=FOLDER [--dtype=bfloat16]

A process a side, in turns. Speed: seconds a photo, all lanes busy, and processor seconds by encoder. Equality, of the
first repeat: masks of every point, before any is chosen, by IoU with float32's mask of the same prompt; free labels by
configs/words/pocket.txt or voc21.txt, each side with the calibration of its own evidence; predictions of a linear head
that is fitted, by least squares, to float32's features and labels, given either side's features. Photos: the pocket
world's scenes; for `b` and `official`, whose weights are random and kept in --scratch (1 and 6 GB), soft blobs: labels
and predictions mean nothing there, only their agreement is read. --worker=DTYPE is how the command calls itself.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import labelgen_throughput
from benchmarks.setting import fresh_process, median, publish, spread, table
from labelgen.core.command import command, parser
from labelgen.core.ontology import read_words

REFERENCE = "float32"
RIDGE = 1.0
GOALS = "goals: mask IoU .99 and more, labels and predictions 99 % of pixels"
Arrays = dict[str, NDArray[Any]]


def main(args: argparse.Namespace) -> int:
    """Run both sides in turns; print what each costs and how far they agree."""
    if args.worker:
        print(json.dumps(work(args)))
        return 0
    if args.size != "pocket":
        labelgen_throughput.write_weights(Path(args.scratch), *labelgen_throughput.MODELS[args.size])
    sides = (REFERENCE, args.dtype)
    costs: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    same = [f"--{name}={getattr(args, name)}" for name in ("size", "photos", "scratch", "device")]
    same += [f"--config.{override}" for override in args.overrides]
    with TemporaryDirectory(prefix="dtype-") as folder:
        for repeat in range(args.repeats):
            for side in sides:
                keep = [f"--keep={folder}/{side}.npz"] * (repeat == 0)
                done = fresh_process("benchmarks.labelgen_dtype", [*same, f"--worker={side}", *keep], args.cores)
                costs[side].append(json.loads(done.out.splitlines()[-1]))
                print(f"{side}: {done.out.splitlines()[-1]}", file=sys.stderr, flush=True)
        kept = [dict(np.load(f"{folder}/{side}.npz")) for side in sides]
    agreement = compare(*kept)
    publish(args, {"costs": costs, "agreement": agreement}, f"{costs_table(costs)}\n\n{agreement_table(agreement)}")
    return 0


def work(args: argparse.Namespace) -> dict[str, Any]:
    """One side: what a photo costs; with --keep its answers, features and labels are written there."""
    from labelgen.models.teachers import Encoders
    from labelgen.sources.photos import Photo

    config = labelgen_throughput.settings(args)
    config.dtype = args.worker
    encoders = Encoders(config)
    images = scenes(args.photos) if args.size == "pocket" else labelgen_throughput.photos(args.photos)
    photos = [Photo(f"{i:03}", image, None) for i, image in enumerate(images)]
    if args.keep:
        np.savez(
            args.keep, allow_pickle=False, **answers(encoders, photos, config)
        )  # the models have run once before the clock starts
    else:
        encoders.encode_photo(photos[0])
    encoders.times.taken()
    start, worked = time.perf_counter(), time.process_time()
    for _ in encoders.encode_photos(iter(photos)):
        pass
    count = len(photos)
    return {
        "s": (time.perf_counter() - start) / count,
        "cpu_s": (time.process_time() - worked) / count,
        "stages": {stage: seconds / count for stage, seconds in encoders.times.taken().items()},
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
    }


def scenes(count: int) -> list[NDArray[np.uint8]]:
    """uint8 [H, W, 3] each, of the pocket world's split eval."""
    from pocket.scenes import draw

    return [draw(0, i, "eval").photo for i in range(count)]


def answers(encoders: Any, photos: list[Any], config: Any) -> Arrays:
    """By name and photo: `bits` of SAM's masks at its own size [n, words], `iou` predicted [n], `automatic` their
    numbers, `features` [h, w, D], free `labels` [H, W]; `prototypes` [K, E]."""
    from labelgen.labels import presence
    from labelgen.labels.free_labels import LabelSettings, label_photo

    words = read_words(config.ontology or "configs/words/voc21.txt")
    prototypes, rows, real = encoders._clip.text(words.words, config.labels.templates), [], encoders._sam.prompt
    found: Arrays = {"prototypes": prototypes, "word_class": np.array(words.word_class)}
    for photo in photos:
        seen: list[Any] = []
        encoders._sam.prompt = lambda *asked, seen=seen: seen.append(real(*asked)) or seen[-1]
        feature, evidence, _ = encoders.encode_photo(photo)
        rows.append(evidence)
        h, w = feature.grid_hw
        found[f"features {photo.photo_id}"] = feature.features[:h, :w].astype(np.float32)
        found[f"bits {photo.photo_id}"] = np.packbits((seen[0].low > 0).flatten(1).numpy(), 1)
        found[f"iou {photo.photo_id}"] = seen[0].iou.numpy()
        found[f"automatic {photo.photo_id}"] = encoders._sam.automatic(seen[0])
    encoders._sam.prompt = real
    scale = presence.measure(rows, config.labels.variant, prototypes, words)
    for row in rows:
        label = label_photo(row, LabelSettings.from_config(config), words, prototypes, scale, encoders.grid_hw)
        found[f"labels {row.photo_id}"] = label.label_map
    return found


def compare(exact: Arrays, other: Arrays) -> dict[str, Any]:
    """How far two sides' answers agree; `exact` is float32's."""
    photos = sorted(name.partition(" ")[2] for name in exact if name.startswith("bits "))
    ious = [overlap(exact[f"bits {i}"], other[f"bits {i}"]) for i in photos]
    chosen = np.concatenate([iou[exact[f"automatic {i}"]] for i, iou in zip(photos, ious, strict=True)])
    surest = [exact[f"iou {i}"].reshape(-1, 3).argmax(1, keepdims=True) for i in photos]
    best = np.concatenate(
        [np.take_along_axis(iou.reshape(-1, 3), at, 1)[:, 0] for iou, at in zip(ious, surest, strict=True)]
    )
    moved = np.concatenate([np.abs(exact[f"iou {i}"] - other[f"iou {i}"]) for i in photos])
    labels = [(exact[f"labels {i}"] == other[f"labels {i}"]).ravel() for i in photos]
    ours, theirs = predicted(exact, exact, photos), predicted(exact, other, photos)
    predictions = [(a == b).ravel() for a, b in zip(ours, theirs, strict=True)]
    return {
        "automatic masks": shares(chosen),
        "best mask of a point": shares(best),
        "predicted IoU, largest difference": float(moved.max()),
        "free labels, pixels": float(np.concatenate(labels).mean()),
        "predictions, patches": float(np.concatenate(predictions).mean()),
        "features, least cosine": min(least_cosine(exact[f"features {i}"], other[f"features {i}"]) for i in photos),
    }


def overlap(ours: NDArray[np.uint8], theirs: NDArray[np.uint8]) -> NDArray[np.float64]:
    """IoU [n] of masks as bits [n, bytes]; 1 where both are empty."""
    both, either = (np.bitwise_count(bits).sum(1, dtype=np.int64) for bits in (ours & theirs, ours | theirs))
    return np.where(either > 0, both / np.maximum(either, 1), 1.0)


def shares(iou: NDArray[np.float64]) -> dict[str, float]:
    """Of IoUs [n]: how many, their mean, the twentieth lowest, and the share of at least .99."""
    if not len(iou):
        return {"n": 0, "mean": 1.0, "5 %": 1.0, ">= .99": 1.0}
    low, near = float(np.quantile(iou, 0.05)), float((iou >= 0.99).mean())
    return {"n": len(iou), "mean": float(iou.mean()), "5 %": low, ">= .99": near}


def predicted(exact: Arrays, side: Arrays, photos: list[str]) -> list[NDArray[np.int64]]:
    """Class of each patch by a linear head from features to prototypes, fitted to `exact`, applied to `side`."""
    prototypes, inputs, classes = exact["prototypes"], [], []
    for i in photos:
        features = exact[f"features {i}"]
        inputs.append(features.reshape(-1, features.shape[-1]))
        classes.append(at_patches(exact[f"labels {i}"], features.shape[:2]).ravel())
    x, target = np.concatenate(inputs).astype(np.float64), np.concatenate(classes)
    labelled = target <= exact["word_class"].max()
    first = np.searchsorted(exact["word_class"], target[labelled])  # a class is taught by its first word
    x, y = x[labelled], prototypes[first].astype(np.float64)
    head = np.linalg.solve(x.T @ x + RIDGE * np.eye(x.shape[1]), x.T @ y)
    return [exact["word_class"][(side[f"features {i}"] @ head @ prototypes.T).argmax(-1)] for i in photos]


def at_patches(label_map: NDArray[Any], grid_hw: tuple[int, ...]) -> NDArray[np.int64]:
    """The label [h, w] in the middle of each patch of label_map [H, W]."""
    rows, columns = (
        (np.arange(cells) + 0.5) * length / cells for cells, length in zip(grid_hw, label_map.shape, strict=True)
    )
    middle: NDArray[np.int64] = label_map[rows.astype(int)][:, columns.astype(int)].astype(np.int64)
    return middle


def least_cosine(ours: NDArray[np.float32], theirs: NDArray[np.float32]) -> float:
    """Of the features [h, w, D] of one patch to the other side's."""
    lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(theirs, axis=-1)
    return float(((ours * theirs).sum(-1) / np.maximum(lengths, 1e-12)).min())


def costs_table(costs: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a dtype, then the ratios of the repeats."""
    rows = [
        [
            side,
            spread([run["s"] for run in runs]),
            spread([run["cpu_s"] for run in runs]),
            ", ".join(f"{stage} {median([run['stages'][stage] for run in runs]):.3g}" for stage in runs[0]["stages"]),
            f"{max(run['peak_gb'] for run in runs):.2f}",
        ]
        for side, runs in costs.items()
    ]
    exact, other = costs.values()
    gain = spread([theirs["s"] / ours["s"] for theirs, ours in zip(exact, other, strict=True)])
    heads = ["dtype", "s a photo", "processor s a photo", "s a photo by stage, all threads", "peak GB"]
    return f"{table(heads, rows)}\n\n{list(costs)[1]} is **{gain}** times as fast as {REFERENCE}"


def agreement_table(agreement: dict[str, Any]) -> str:
    """Markdown: a row a measure."""
    rows = [
        [name, f"{found:.4f}" if isinstance(found, float) else ", ".join(f"{of} {n:.4g}" for of, n in found.items())]
        for name, found in agreement.items()
    ]
    return f"{table(['beside float32', 'agreement'], rows)}\n\n{GOALS}"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--size", choices=("pocket", *labelgen_throughput.MODELS), default="pocket")
    flags.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16", help="the side beside float32")
    flags.add_argument("--photos", type=int, default=6, metavar="N")
    flags.add_argument("--repeats", type=int, default=1, metavar="R", help="for the speed; answers are compared once")
    flags.add_argument("--cores", type=int, default=0, metavar="N", help="cores and threads of each side; 0: all")
    flags.add_argument("--device", default="cpu")
    flags.add_argument("--scratch", default=f"{gettempdir()}/fmbseg-throughput", metavar="FOLDER")
    flags.add_argument("--worker", default="", help=argparse.SUPPRESS)
    flags.add_argument("--keep", default="", help=argparse.SUPPRESS)
    flags.add_argument("--out", metavar="F.json", help="also write every run's figures there")
    flags.set_defaults(config="")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
