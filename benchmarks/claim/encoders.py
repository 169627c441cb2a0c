"""Claim 4: the same labels and head on other vision encoders, beside each one's linear probe on truth."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from safetensors.torch import load_file

from benchmarks.claim.bench import Bench, Fields, text
from benchmarks.claim.runs import best_dense, dense_counts, head_counts, miou, shipped_question, trained
from benchmarks.claim.verdict import DENSE, Claim, Comparison, Row
from labelgen.errors import UserError

SENTENCE = "The approach brings language-based semantics to any pretrained vision encoder."
PROBE: Fields = {"train.targets": "truth"}
TRUNKS: dict[str, Fields] = {
    "CLIP's own trunk": {"encoder.name": "clip", "encoder.weights": ""},
    "SAM's encoder": {"encoder.name": "sam", "encoder.weights": ""},
}


def run(bench: Bench) -> Claim:
    """Patch features of each encoder on the grid of DATA; labels, evidence and truth stay."""
    variant, dense = best_dense(dense_counts(bench, shipped_question(bench)))
    name = Path(bench.config.encoder.name).stem
    ran = (
        f"The free labels of the shipped config and its head on the features of each encoder, scored on {bench.split}; "
        "the ceiling is the same head trained on truth, for a linear head a linear probe."
    )
    shipped, floor = f"{name} (shipped)", f"{name}, untrained"
    encoders: dict[str, Fields] = {shipped: {}, **TRUNKS, **untrained_encoder(bench, floor)}
    rows = {encoder: encoder_row(bench, encoder, fields) for encoder, fields in encoders.items()}
    found = {encoder: row.figures["mIoU"] for encoder, row in rows.items()}
    comparisons = [
        Comparison(f"{encoder}: the head is above the best dense CLIP", its, [dense] * bench.seeds)
        for encoder, its in found.items()
        if encoder != floor
    ]
    if floor in found:
        comparisons.append(Comparison("trained, the shipped encoder is above untrained", found[shipped], found[floor]))
    clip = Row(f"dense CLIP, {variant}", {"mIoU": [dense] * bench.seeds}, DENSE)
    return Claim(SENTENCE, ran, [*rows.values(), clip], comparisons)


def encoder_row(bench: Bench, name: str, fields: Fields) -> Row:
    """Free labels, truth, and the share of the second that the first reaches."""
    question, data = shipped_question(bench), features(bench, fields) if fields else bench.data_path
    head, ceiling = (
        [
            miou(head_counts(bench, trained(bench, {**fields, **more}, seed, data), question)["head"])
            for seed in range(bench.seeds)
        ]
        for more in ({}, PROBE)
    )
    share = [mine / most for mine, most in zip(head, ceiling, strict=True)]
    return Row(name, {"mIoU": head, "trained on truth": ceiling, "share": share})


def untrained_encoder(bench: Bench, name: str) -> dict[str, Fields]:
    """The shipped encoder with weights as before any training; nothing where its own are no file in weights_dir."""
    encoder = bench.config.encoder
    own = Path(bench.config.weights_dir) / encoder.weights
    if own.suffix != ".safetensors" or not own.is_file():
        return {}
    path = (bench.out / "untrained.safetensors").absolute()
    if not path.exists():
        known = {name: its.float().numpy() for name, its in load_file(own).items()}
        save_file(untrained(known), path)
    described = {}
    if encoder.name.endswith(".json"):  # it states the digest of the trained file
        model = json.loads((own.parent / encoder.name).read_text()) | {"sha256": ""}
        path.with_suffix(".json").write_text(json.dumps(model))
        described = {"encoder.name": str(path.with_suffix(".json"))}
    return {name: {**described, "encoder.weights": str(path), "encoder.sha256": ""}}


def untrained(known: dict[str, NDArray[np.floating[Any]]]) -> dict[str, NDArray[np.floating[Any]]]:
    """Arrays of the same names and shapes: matrices normal with deviation .02, biases zero, scales one."""
    rng, made = np.random.default_rng(0), {}
    for name, its in sorted(known.items()):
        constant = np.zeros_like if name.endswith("bias") else np.ones_like
        made[name] = rng.normal(0, 0.02, its.shape).astype(its.dtype) if its.ndim > 1 else constant(its)
    return made


def features(bench: Bench, fields: Fields) -> Path:
    """DATA of another encoder's features beside the claims' own. UserError where encoding fails."""
    key = "-".join(Path(text(value)).stem for value in fields.values() if value)
    folder = bench.out / f"encoder-{key}"
    if not (folder / "dataset.json").exists():
        command = [sys.executable, "-m", "labelgen.features", f"--config={bench.config_file}"]
        command += [f"--config.{override}" for override in bench.said(fields)]
        command += [f"--data={bench.data_path}", f"--out={folder}"]
        with bench.times("features"):
            done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{' '.join(command[1:])}: ended with code {done.returncode}: {done.stderr[-300:]}")
    return folder
