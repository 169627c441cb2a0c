"""A Segmenter's result as supervision has it: its own classes, annotators and data sets take it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fmbseg_jax.bridges.detections import to_supervision
from tests.fmbseg_jax.inference.test_segmenter import segmentation
from tests.worlds import tiny_models, tiny_run
from tests.worlds.page import example

pytestmark = [
    pytest.mark.filterwarnings("ignore:OpenCV .* is not installed"),
    pytest.mark.filterwarnings("ignore::FutureWarning:supervision"),
]


def test_a_class_is_a_detection() -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    found = to_supervision(segmentation())
    assert isinstance(found, sv.Detections) and len(found) == 2
    assert found.class_id.tolist() == [0, 1] and found.data["class_name"].tolist() == ["cat", "sofa"]
    assert np.allclose(found.confidence, [0.6, 0.5])
    assert np.array_equal(found.mask[1], [[True, True, True, False]] * 2)
    assert found.area.tolist() == [2, 6]
    assert np.array_equal(found.xyxy, sv.mask_to_xyxy(found.mask))
    assert len(found[found.confidence > 0.55]) == 1


def test_supervision_draws_it() -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    result = segmentation()
    found = to_supervision(result)
    drawn = sv.MaskAnnotator(opacity=1, color_lookup=sv.ColorLookup.CLASS).annotate(result.image.copy(), found)
    assert len({tuple(drawn[0, 0]), tuple(drawn[0, 3])}) == 2
    merged = sv.Detections.merge([found, found[0]])
    assert len(merged) == 3


def test_the_lines_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("supervision", reason="supervision is not installed")
    tiny_run.write(tmp_path / "run", tiny_models.write(tmp_path / "weights"))
    tiny_run.picture(40, 53).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("tools.md", "to_supervision(result)"), names)
    assert names["drawn"].shape == (40, 53, 3) and (names["drawn"] != names["result"].image).any()
    assert len(names["detections"]) == len(names["result"].shares) == 2
