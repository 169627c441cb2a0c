"""The fix of torchvision beside a CPU torch: import, suppression, and no touch of a working build."""

import subprocess
import sys
import types

import numpy as np
import pytest
import torch

from labelgen.models import torchvision_shim
from tests.worlds.paths import ROOT


def run(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh process: what an import does can only be seen in one."""
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)


def naive_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    """Kept indices, counted box by box in float64."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        clear = True
        for j in kept:
            width = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
            height = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
            overlap = max(width, 0.0) * max(height, 0.0)
            areas = [(boxes[k, 2] - boxes[k, 0]) * (boxes[k, 3] - boxes[k, 1]) for k in (i, j)]
            union = areas[0] + areas[1] - overlap
            clear = clear and not (union > 0 and overlap / union > threshold)
        if clear:
            kept.append(int(i))
    return kept


def test_libraries_import_behind_the_shim() -> None:
    code = "import labelgen.models.libraries, torchvision.ops, timm.layers, segment_anything; print('in')"
    done = run(code)
    assert done.returncode == 0 and done.stdout.strip() == "in", done.stderr


def test_operator_reaches_our_nms_through_torchvision() -> None:
    torchvision_shim.install()
    from torchvision.ops.boxes import batched_nms

    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10], [1, 0, 11, 10], [30, 30, 40, 40]])
    kept = batched_nms(boxes, torch.tensor([0.5, 0.9, 0.8, 0.1]), torch.tensor([0, 0, 1, 0]), 0.7)
    assert kept.tolist() == [1, 2, 3]  # box 0 falls to box 1; box 2 is of another category


@pytest.mark.parametrize("threshold", [0.3, 0.7])
def test_nms_equals_a_naive_count(threshold: float) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        low = rng.uniform(0, 40, (40, 2))
        boxes = np.concatenate([low, low + rng.uniform(0, 30, (40, 2))], axis=1)
        boxes[::7, 2:] = boxes[::7, :2]  # no area
        scores = rng.permutation(40) / 40
        kept = torchvision_shim.nms(torch.from_numpy(boxes), torch.from_numpy(scores), threshold)
        assert kept.tolist() == naive_nms(boxes, scores, threshold)


def test_nms_keeps_boxes_whose_iou_is_undefined() -> None:
    points = torch.tensor([[3.0, 3, 3, 3], [3, 3, 3, 3]])
    assert torchvision_shim.nms(points, torch.tensor([0.2, 0.4]), 0.5).tolist() == [1, 0]
    assert torchvision_shim.nms(torch.zeros(0, 4), torch.zeros(0), 0.5).shape == (0,)


def test_a_working_build_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_shim, "_kept_alive", [])
    works = types.ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", works)
    assert torchvision_shim.install() is False
    assert sys.modules["torchvision"] is works and torchvision_shim._kept_alive == []


def test_another_failure_is_not_swallowed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> types.ModuleType:
        raise RuntimeError(f"{name} is broken otherwise")

    monkeypatch.setattr(torchvision_shim, "_kept_alive", [])
    monkeypatch.setattr(torchvision_shim.importlib, "import_module", fail)
    with pytest.raises(RuntimeError, match="torchvision is broken otherwise"):
        torchvision_shim.install()


def test_installing_twice_is_harmless() -> None:
    assert torchvision_shim.install() == torchvision_shim.install()
