"""A Segmenter's result as supervision's detections, for its annotators, metrics and data sets."""

from typing import TYPE_CHECKING, Any

import numpy as np

from fmbseg_jax.bridges.answers import answer, package
from fmbseg_jax.inference.segmenter import Labels

if TYPE_CHECKING:
    import supervision


def to_supervision(result: Labels) -> "supervision.Detections":
    """sv.Detections of a result, one a class that has pixels, in the order of the classes.

    mask bool [n, H, W]; xyxy float32 [n, 4] as supervision takes them from masks; class_id the index into
    `result.names`; confidence as `result.scores`; data["class_name"]. UserError where supervision is not installed.
    """
    sv = package("supervision", "supervision")
    pieces = answer(result).pieces()
    masks = np.stack([piece.mask for piece in pieces])
    detections: Any = sv.Detections(
        xyxy=sv.mask_to_xyxy(masks).astype(np.float32),
        mask=masks,
        confidence=np.array([piece.confidence for piece in pieces], np.float32),
        class_id=np.array([piece.value for piece in pieces]),
        data={"class_name": np.array([piece.name for piece in pieces])},
    )
    return detections
