"""A Segmenter's result as supervision has it: its own classes, annotators and data sets take it."""

import numpy as np
import pytest

from fmbseg_jax.bridges.detections import to_supervision
from tests.fmbseg_jax.inference.test_segmenter import segmentation

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


def test_supervision_draws_it_and_keeps_it_as_coco(tmp_path: object) -> None:
    sv = pytest.importorskip("supervision", reason="supervision is not installed")
    result = segmentation()
    found = to_supervision(result)
    drawn = sv.MaskAnnotator(opacity=1, color_lookup=sv.ColorLookup.CLASS).annotate(result.image.copy(), found)
    assert len({tuple(drawn[0, 0]), tuple(drawn[0, 3])}) == 2
    merged = sv.Detections.merge([found, found[0]])
    assert len(merged) == 3
