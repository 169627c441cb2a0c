"""The benchmarks of labelling from their command line to their table, at their smallest, in this process."""

import io
import json
import subprocess
from contextlib import redirect_stdout
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import labelgen_dtype, labelgen_throughput, relabel, sam_sizes, scale, teachers
from labelgen.core.command import command
from labelgen.models import sam2
from pocket.scenes import draw
from tests.worlds import tiny_models


def printed(module: ModuleType, *arguments: str) -> str:
    """What the command prints."""
    out = io.StringIO()
    with redirect_stdout(out):
        assert command(module.main, module.arguments(), list(arguments)) == 0
    return out.getvalue()


def cells(said: str, name: str) -> list[str]:
    """The row of the table that begins so."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines() if line.startswith("|")]
    (row,) = [row[1:] for row in rows if row[0] == name]
    return row


def test_relabelling_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = relabel.Size((30, 40), (3, 4), 8, crops=5, points=16, masks=12, classes=3)
    monkeypatch.setattr(relabel, "SIZES", {"pocket": small})
    said = printed(relabel, "--photos=2", f"--out={tmp_path}/f.json")
    rates = json.loads((tmp_path / "f.json").read_text())["rates"]["pocket"]
    assert len(rates) == 2 and min(rates) > 0
    assert float(cells(said, "pocket")[1]) == pytest.approx(sum(rates), rel=0.01), "two cores, the median of two"


def test_the_encoder_is_timed_beside_the_ordinary_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(module: str, arguments: list[str], *more: Any) -> SimpleNamespace:
        return SimpleNamespace(out=printed(labelgen_throughput, *arguments))

    monkeypatch.setattr(labelgen_throughput, "fresh_process", here)
    monkeypatch.setattr(labelgen_throughput, "SIZE_WH", (96, 80))
    size = ["--size=pocket", "--photos=1", "--repeats=1", "--device=cpu", "--config.sam.points_per_side=2"]
    said = printed(labelgen_throughput, *size, f"--out={tmp_path}/f.json")
    sides = json.loads((tmp_path / "f.json").read_text())["sides"]
    for side in ("ordinary", "ours"):
        assert float(cells(said, side)[0].split()[0]) == pytest.approx(sides[side][0]["photos_s"], rel=0.01)
    assert f"photos/s **{sides['ours'][0]['photos_s'] / sides['ordinary'][0]['photos_s']:.3g}" in said


def test_sam_is_timed_by_the_size_of_the_photo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(module: str, arguments: list[str], *more: Any) -> SimpleNamespace:
        return SimpleNamespace(out=printed(sam_sizes, *arguments))

    monkeypatch.setattr(sam_sizes, "fresh_process", here)
    monkeypatch.setattr(sam_sizes, "SIZES_WH", {"0.8": (64, 48)})
    said = printed(sam_sizes, "--repeats=3", "--most_s=0.0001", f"--out={tmp_path}/f.json")
    runs = json.loads((tmp_path / "f.json").read_text())["runs"]["0.8"]
    rows = [line.split(" | ") for line in said.splitlines() if line.startswith("| 0.8")]
    assert [row[1:3] for row in rows] == [["pixels", "1"], ["outlines", "1"]], "one run took long enough"
    assert rows[0][5] == "1.00" and runs["pixels"][0]["masks"] == runs["outlines"][0]["masks"] > 0
    assert len(printed(sam_sizes, "--repeats=2").splitlines()) > 4


def test_presets_and_sams_are_timed_and_their_operations_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = tiny_models.config(tiny_models.write(tmp_path / "weights"))

    def here(module: str, arguments: list[str], *more: Any) -> SimpleNamespace:
        return SimpleNamespace(out=printed(teachers, *arguments))

    monkeypatch.setattr(teachers, "fresh_process", here)
    monkeypatch.setattr(teachers, "config_of", lambda row, folder: small)
    monkeypatch.setattr(teachers, "untrained", lambda part, config: None)
    monkeypatch.setattr(teachers, "SAMS", ("vit_h", "mobile_sam"))
    said = printed(teachers, f"--out={tmp_path}", "--rows=fast,sams", f"--out_json={tmp_path}/f.json")
    runs = json.loads((tmp_path / "f.json").read_text())["runs"]
    assert set(runs) == {"fast", "vit_h", "mobile_sam"} and set(runs["fast"]) == set(teachers.PARTS)
    assert all(part["flop"] > 0 and part["cpu_s"] > 0 for row in runs.values() for part in row.values())
    assert cells(said, "fast")[0].startswith("dinov2: ") and cells(said, "vit_h")[2] == "1.0"
    assert runs["vit_h"]["sam"]["encoder_s"] < runs["vit_h"]["sam"]["cpu_s"]


def test_untrained_weights_are_of_the_official_shape_and_found_by_the_loaders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = teachers.config_of("mobile_sam", tmp_path)
    assert (config.sam.points_per_side, config.dtype, config.device) == (32, "float32", "cpu")
    teachers.untrained("sam", config)
    encode, _ = teachers.encoder("sam", config)
    assert encode.__self__.identity()["weights"] == "untrained_mobile_sam.pt"
    for preset in ("fast", "best"):
        config = teachers.config_of(preset, tmp_path)
        assert config.sam.name in sam2.SIZES and config.sam.weights == f"untrained_{config.sam.name}.pt"
    assert teachers.config_of("default", tmp_path).sam.name == "vit_h"


def test_fused_attention_of_the_cpu_is_counted() -> None:
    q = torch.zeros(2, 3, 5, 4)
    with torch.inference_mode():
        _, flop = teachers.spent(lambda: torch.nn.functional.scaled_dot_product_attention(q, q, q))
    assert flop == 2 * (2 * 2 * 3 * 5 * 5 * 4), "two products, two operations an element"


def test_what_grows_with_the_photos_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(line: list[str], **options: Any) -> SimpleNamespace:
        return SimpleNamespace(stdout=printed(scale, *line[3:]))

    monkeypatch.setattr(subprocess, "run", here)
    monkeypatch.setattr(scale, "READS", 50)
    said = printed(scale, f"--out={tmp_path}", "--rows=100,200")
    assert cells(said, "rows") == ["100", "200", "10,000,000"]
    assert cells(said, "shards") == ["2", "4", "200,000"], "the last scaled from the one before"
    assert [cell.split(", ")[-1] for cell in cells(said, "finish: open every index")] == ["2", "4", "200000"]
    found = json.loads((tmp_path / "scale.json").read_text())["sizes"]
    assert all(size["50 random rows"]["opened"] >= size["shards"] for size in found)


def test_a_dtype_is_held_against_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(module: str, arguments: list[str], *more: Any) -> SimpleNamespace:
        return SimpleNamespace(out=printed(labelgen_dtype, *arguments))

    monkeypatch.setattr(labelgen_dtype, "fresh_process", here)
    monkeypatch.setattr(
        labelgen_dtype, "scenes", lambda count: [scene.photo[:80, :100] for scene in [draw(0, 0)] * count]
    )
    small = ["--config.sam.points_per_side=3", "--config.clip.short_side_px=96"]
    said = printed(labelgen_dtype, "--photos=1", *small, f"--out={tmp_path}/f.json")
    found = json.loads((tmp_path / "f.json").read_text())["agreement"]
    assert found["best mask of a point"]["n"] == 9 and found["best mask of a point"]["mean"] > 0.95
    assert 0.9 < found["features, least cosine"] < 1, "two dtypes ran"
    assert float(cells(said, "free labels, pixels")[0]) == pytest.approx(found["free labels, pixels"], abs=1e-4)
    assert {"float32", "bfloat16"} == {side for side in ("float32", "bfloat16") if cells(said, side)}


def test_agreement_is_counted_mask_by_mask_and_pixel_by_pixel() -> None:
    bits = np.packbits(np.array([[1, 1, 1, 1, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [0] * 8], bool), 1)
    moved = np.packbits(np.array([[1, 1, 1, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0, 0], [0] * 8], bool), 1)
    assert labelgen_dtype.overlap(bits, moved).tolist() == [0.75, 0.0, 1.0]
    assert labelgen_dtype.shares(np.array([1.0, 0.99, 0.5, 0.5]))[">= .99"] == 0.5
    features = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)
    side = {
        "prototypes": np.eye(2, dtype=np.float32),
        "word_class": np.array([0, 1]),
        "bits 0": bits,
        "iou 0": np.array([0.2, 0.9, 0.1], np.float32),
        "automatic 0": np.array([0]),
        "features 0": features,
        "labels 0": np.array([[0, 0, 1, 1], [0, 0, 1, 1]], np.uint8),
    }
    other = side | {
        "bits 0": moved,
        "features 0": features[:, ::-1],
        "labels 0": np.array([[0] * 4, [0, 0, 1, 1]], np.uint8),
    }
    found = labelgen_dtype.compare(side, other)
    assert found["automatic masks"]["mean"] == 0.75 and found["best mask of a point"]["mean"] == 0.0
    assert found["free labels, pixels"] == 0.75 and found["predictions, patches"] == 0.0
    assert labelgen_dtype.compare(side, side)["predictions, patches"] == 1.0
