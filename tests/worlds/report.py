"""A DATA with labels, a RUN and photos, whose every figure in the report is known by hand.

All photos show grass with a ball (labelling.py). The head says the truth, but that the first i patches of photo i
are a box. Split eval has truth, split train has labels.
"""

import json
import re
import zlib
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from PIL import Image

from fmbseg_jax import evaluate, report
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.core.ontology import Ontology
from labelgen.data.records import FeatureRow, TruthRow
from labelgen.labels.free_labels import label_photo
from labelgen.labels.presence import Calibration
from tests.worlds import data
from tests.worlds import run as run_world
from tests.worlds.labelling import GRID, ONTOLOGY, PROTOTYPES, SETTINGS, SIZE, evidence, truth
from tests.worlds.paths import ROOT

EVAL = ("p0", "p1", "p2", "dir/<i>&'p3", "p4")
TRAIN = ("t0", "t1")
ENCODERS = {"encoder": {**run_world.ENCODER, "size_px": 64}, "clip": run_world.ENCODERS["clip"]}
LABELS = {
    "presence": vars(SETTINGS.presence),
    "points": {"per_class": SETTINGS.points_per_class},
    "masks": {"min_confidence": SETTINGS.mask_min_confidence},
    "merge": {"min_confidence": SETTINGS.merge_min_confidence},
    "variant": SETTINGS.variant,
}


def head_patches(wrong: int) -> np.ndarray:
    """Class a patch [6, 8] that the head says."""
    patches = truth()[4::8, 4::8].copy()
    patches.flat[:wrong] = 2
    return patches


def features(name: str, wrong: int) -> FeatureRow:
    padded = np.zeros((8, 8, 5), ml_dtypes.bfloat16)
    padded[: GRID[0], : GRID[1]] = PROTOTYPES[np.array([0, 2, 3])[head_patches(wrong)]]
    return FeatureRow(name, SIZE, (0.0, 0.0, 64.0, 48.0), GRID, padded)


def truth_row(name: str) -> TruthRow:
    """Its first row of pixels is not annotated."""
    label_map = truth().astype(np.uint8)
    label_map[0] = 255
    return TruthRow(name, label_map)


def write_data(folder: Path, ontology: Ontology = ONTOLOGY, with_truth: bool = True) -> Path:
    splits: dict[str, dict[str, list[list[Any]]]] = {}
    neutral = Calibration.none(len(ontology.names))
    for split, names in (("eval", EVAL), ("train", TRAIN)):
        seen = [replace(evidence(0), photo_id=name) for name in names]
        families: dict[str, list[list[Any]]] = {"features": [[features(name, i) for i, name in enumerate(names)]]}
        families["evidence"] = [seen]
        if split == "train":
            rows = [label_photo(row, SETTINGS, ontology, PROTOTYPES, neutral, (8, 8)) for row in seen]
            families["labels/default"] = [rows]
        elif with_truth:
            families["truth"] = [[truth_row(name) for name in names]]
        splits[split] = families
    data.write_labels(folder / "labels/default", ontology, PROTOTYPES, neutral, **LABELS, digest="d")
    config = load_config(str(ROOT / "configs/default.py"))
    encoded = {name: config[name].to_dict() for name in ("encoder", "clip")}
    data.write_data(folder, splits, (8, 8), (5, 5), ENCODERS, config=encoded)
    failure = {"file": "<b>bad</b>.png", "reason": "no picture", "mend": "take it away"}
    (folder / "failures.jsonl").write_text(json.dumps(failure) + "\n")
    return folder


def write_photos(root: Path) -> None:
    for split, names in (("eval", EVAL), ("train", TRAIN)):
        for i, name in enumerate(names):
            path = root / split / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*SIZE, 3), 40 * i + 20, np.uint8)).save(path)


def write_run(folder: Path, root: str, ontology: Ontology = ONTOLOGY) -> Path:
    config = load_config(str(ROOT / "configs/default.py"))
    with config.unlocked():
        config.photos.root = root
        config.photos.splits = {split: {"photos": split, "masks": ""} for split in ("eval", "train")}
        config.labels.variant = "naclip"
        config.eval.groups = {"stuff": ("grass",)} if "grass" in ontology.names else {}
    run_world.write_run(folder, config, np.eye(5), ontology, PROTOTYPES, ENCODERS)
    lines = [{"step": 1, "loss": 0.5, "agreement": 0.6, "seconds/steps": 1.5}, {"step": 2, "held_out_loss": 0.4}]
    lines += [{"step": 3, "loss": 0.25, "agreement": 0.75, "seconds/steps": 2.5, "seconds/save": 0.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def evaluated(data: Path, run: Path) -> None:
    arguments = [f"--config={ROOT / 'configs/default.py'}", f"--data={data}", f"--workdir={run}"]
    fields = ["--config.eval.splits=eval", "--config.labels.variant=naclip"]
    assert command(evaluate.main, evaluate.arguments(), arguments + fields) == 0


def reported(data: Path, run: Path, out: Path, *more: str) -> int:
    arguments = [f"--data={data}", f"--workdir={run}", f"--out={out}", *more]
    return command(report.main, report.arguments(), arguments)


def fields_of(out: Path) -> Any:
    """What the page's scripts read."""
    html = (out / "index.html").read_text()
    found = re.search(r'<script type="application/json" id="report">(.*?)</script>', html, re.S)
    assert found
    return json.loads(found[1])


def numbers_of(out: Path, key: str) -> dict[str, Any]:
    """A photo's file, unpacked by other means than the page's: label maps, masks, similarity maps in 0..255."""
    text = (out / f"files/{key}.js").read_text()
    fields = json.loads(text[text.index(",") + 1 : text.rindex(")")])
    raw = zlib.decompress(b64decode(fields["bytes"]))
    (height, width), (h, w) = fields["size"], fields["grid"]
    at = 0

    def take(count: int) -> np.ndarray:
        nonlocal at
        at += count
        return np.frombuffer(raw[at - count : at], np.uint8)

    maps = {name: np.cumsum(take(height * width).reshape(height, width), 0, np.uint8) for name in fields["maps"]}
    packed = [np.unpackbits(take(-(-height * width // 8)))[: height * width] for _ in range(fields["masks"])]
    masks = [np.cumsum(bits.reshape(height, width), 0) % 2 for bits in packed]
    classes = fields["similarity"]
    similarity = {name: take(len(classes) * h * w).reshape(-1, h, w) for name in ("before", "after")}
    assert at == len(raw)
    return {**fields, "maps": maps, "masks": masks, "similarity": similarity, "classes": classes}
