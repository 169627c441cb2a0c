"""Claim 4: the same labels and head on other vision encoders, beside each one's linear probe on truth."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from experiments.bench import Bench, Fields, text
from experiments.dealt import own_photos
from experiments.runs import Question, best_dense, dense_counts, head_counts, miou, shipped_question, trained
from experiments.verdict import DENSE, Claim, Comparison, Row
from fmbseg_jax.reporting.readings import HEAD, dense_clip
from fmbseg_jax.training.feed import split_rows
from labelgen.core.errors import UserError
from labelgen.models.trunks import weight_file
from labelgen.models.weight_files import read_state

SENTENCE = "The approach brings language-based semantics to any pretrained vision encoder."
PROBE: Fields = {"train.targets": "truth"}
HALF = 0.5


class Course(NamedTuple):
    """What all heads of this claim are trained on, and judged by."""

    fields: Fields
    question: Question
    ran: str


def run(bench: Bench) -> Claim:
    """Patch features of each encoder on the grid of DATA; labels, evidence and truth stay."""
    course = choose_course(bench)
    variant, dense = best_dense(dense_counts(bench, course.question))
    name = Path(bench.config.encoder.name).stem
    shipped, floor = f"{name} (shipped)", f"{name}, untrained"
    below, notes = untrained_encoder(bench, floor)
    encoders: dict[str, Fields] = {shipped: {}, **trunks(bench), **below}
    rows = {encoder: encoder_row(bench, encoder, fields, course) for encoder, fields in encoders.items()}
    scores = {encoder: row.figures["mIoU"] for encoder, row in rows.items()}
    comparisons = [
        Comparison(f"{encoder}: the head is above the best dense CLIP", its, [dense] * bench.seeds)
        for encoder, its in scores.items()
        if encoder != floor
    ]
    if floor in scores:
        comparisons.append(
            Comparison("trained, the shipped encoder is above untrained", scores[shipped], scores[floor])
        )
    clip = Row(dense_clip(variant).title, {"mIoU": [dense] * bench.seeds}, DENSE)
    return Claim(SENTENCE, course.ran, [*rows.values(), clip], comparisons, notes)


def choose_course(bench: Bench) -> Course:
    """The training split; where it has no truth for the ceiling, half of the photos one is judged on."""
    what = "The free labels of the shipped config and its head on the features of each encoder, scored on"
    ceiling = "the ceiling is the same head trained on truth, for a linear head a linear probe."
    question, split = shipped_question(bench), bench.config.train.split
    if bench.data.has_truth(split):
        return Course({}, question, f"{what} {bench.split}; {ceiling}")
    taught, judged = split_rows(bench.data.count(bench.split), HALF)
    if not len(judged):
        raise UserError(
            f"{split} has no truth and {bench.split} one photo, so no ceiling can be trained; "
            f"set photos.splits.{split}.masks, or put more photos into {bench.split}"
        )
    where = own_photos(bench)
    fields = {
        "train.split": bench.split,
        "labels.name": where.name,
        "train.holdout": HALF,
        "train.save_every": bench.config.train.steps,  # one checkpoint: none is chosen by photos that are judged
    }
    ran = (
        f"{what} {len(judged)} photos of {bench.split}, drawn once, and trained on its other {len(taught)}, as {split} "
        f"has no truth; the last checkpoint counts. {ceiling.capitalize()}"
    )
    return Course(fields, replace(question, rows=tuple(judged.tolist())), ran)


def trunks(bench: Bench) -> dict[str, Fields]:
    """CLIP's own trunk at the shipped encoder's size, in whole patches, and SAM's encoder at its only size."""
    known, shipped = bench.data.info["encoders"], bench.config.encoder
    sides = ("size_px", "height_px", "window_px", "stride_px")
    patch = known["clip"]["patch_px"]
    clip = {side: -(-shipped[side] // patch) * patch for side in sides}
    sam = dict.fromkeys(sides, 0) | {"size_px": known["sam"]["input_px"]}
    networks = {"CLIP's own trunk": ("clip", clip), "SAM's encoder": ("sam", sam)}
    return {
        row: {"encoder.name": name, "encoder.weights": "", **changed(bench, {**its, "layers": (-1,)})}
        for row, (name, its) in networks.items()
        if name != shipped.name
    }


def changed(bench: Bench, fields: Fields) -> dict[str, Any]:
    """encoder.FIELD of those that the shipped config has otherwise."""
    shipped = bench.config.encoder
    return {f"encoder.{name}": value for name, value in fields.items() if shipped[name] != value}


def encoder_row(bench: Bench, name: str, fields: Fields, course: Course) -> Row:
    """Free labels, truth, and the share of the second that the first reaches."""
    labels = str(course.fields.get("labels.name", bench.config.labels.name))
    data = features(bench, fields, labels) if fields else bench.data_path
    head, ceiling = (
        [miou(head_counts(bench, trained(bench, variant, s, data), course.question)[HEAD]) for s in range(bench.seeds)]
        for variant in ({**fields, **course.fields}, {**fields, **course.fields, **PROBE})
    )
    share = [mine / most if most else float("nan") for mine, most in zip(head, ceiling, strict=True)]
    return Row(name, {"mIoU": head, "trained on truth": ceiling, "share": share})


def untrained_encoder(bench: Bench, name: str) -> tuple[dict[str, Fields], list[str]]:
    """The shipped encoder with weights as before any training; a note instead where it has no file of its own."""
    encoder = bench.config.encoder
    file = weight_file(bench.config)
    own = file.local() if file else None
    if own is None:
        lacks = (
            f"{file.saved_as} is not at hand; put it there" if file else f"encoder.name = {encoder.name!r} has no file"
        )
        return {}, [
            f"The floor, {name}, was not tried: {lacks}{'' if file else '; set encoder.name to a model of timm'}."
        ]
    path = (bench.out / "untrained.safetensors").absolute()
    if not path.exists():
        known = {name: its.float().numpy() for name, its in read_state(own).items()}
        save_file(untrained(known), path)
    described = {}
    if encoder.name.endswith(".json"):  # it states the digest of the trained file
        model = json.loads(Path(bench.config.weights_dir, encoder.name).read_text()) | {"sha256": ""}
        path.with_suffix(".json").write_text(json.dumps(model))
        described = {"encoder.name": str(path.with_suffix(".json"))}
    return {name: {**described, "encoder.weights": str(path), "encoder.sha256": ""}}, []


def untrained(known: dict[str, NDArray[np.floating[Any]]]) -> dict[str, NDArray[np.floating[Any]]]:
    """Arrays of the same names and shapes: matrices normal with deviation .02, biases zero, scales one."""
    rng, arrays = np.random.default_rng(0), {}
    for name, its in sorted(known.items()):
        constant = np.zeros_like if name.endswith("bias") else np.ones_like
        arrays[name] = rng.normal(0, 0.02, its.shape).astype(its.dtype) if its.ndim > 1 else constant(its)
    return arrays


def features(bench: Bench, fields: Fields, labels: str) -> Path:
    """DATA of another encoder's features and the claims' labels/NAME. UserError where encoding fails."""
    key = "-".join(Path(text(value)).stem for value in fields.values() if value)
    folder = bench.out / f"encoder-{key}"
    if not all((folder / name).exists() for name in ("dataset.json", f"labels/{labels}/labels.json")):
        command = [sys.executable, "-m", "labelgen.features", f"--config={bench.config_file}"]
        command += [f"--config.{override}" for override in bench.said(fields)]
        command += [f"--data={bench.data_path}", f"--out={folder}"]
        with bench.times("features"):
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode == 2:
            raise UserError(done.stderr.strip().rpartition("\n")[2].removeprefix("error: "))
        if done.returncode:
            raise UserError(f"{' '.join(command[1:])}: ended with code {done.returncode}: {done.stderr[-300:]}")
    return folder
