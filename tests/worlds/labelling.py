"""A photo of 48 x 64 px with two classes, whose evidence and labels are known by hand."""

import numpy as np

from labelgen.core.ontology import Ontology
from labelgen.data import rle
from labelgen.data.records import EvidenceRow
from labelgen.data.rle import MaskSet
from labelgen.labels.free_labels import LabelSettings
from labelgen.labels.presence import Calibration, PresenceSettings

SIZE, GRID = (48, 64), (6, 8)
ONTOLOGY = Ontology(
    names=("grass", "ball", "box"), words=("grass", "lawn", "ball", "box"), word_class=(0, 0, 1, 2), roles=("", "", "")
)
PROTOTYPES = np.eye(4, 5, dtype=np.float32)
NEUTRAL = Calibration.none(3)
SETTINGS = LabelSettings("naclip", PresenceSettings(0.1, 0.1, 0.3, 1.0), 4, 0.5, 0.5)


def truth() -> np.ndarray:
    """Grass with a ball of 16 x 16 px at rows 8-24, columns 40-56: class per pixel [48, 64]."""
    label_map = np.zeros(SIZE, np.int64)
    label_map[8:24, 40:56] = 1
    return label_map


def mask_set(bitmaps: np.ndarray, points_xy: np.ndarray, point_masks: np.ndarray, automatic: np.ndarray) -> MaskSet:
    """A MaskSet of bool bitmaps [M, H, W]; every mask has predicted IoU .9."""
    runs = [rle.encode_mask(b) for b in bitmaps]
    boxes = []
    for b in bitmaps:
        y, x = np.nonzero(b)
        boxes.append((x.min(), y.min(), x.max() + 1, y.max() + 1))
    return MaskSet(
        runs=np.concatenate(runs).astype(np.uint32),
        offsets=np.cumsum([0, *map(len, runs)]).astype(np.int64),
        size_hw=SIZE,
        boxes=np.array(boxes, np.float32),
        iou=np.full(len(bitmaps), 0.9, np.float32),
        stability=np.full(len(bitmaps), 0.95, np.float32),
        automatic=automatic,
        points_xy=points_xy.astype(np.float32),
        point_masks=point_masks.astype(np.int32),
    )


def evidence(grass_word: int = 1) -> EvidenceRow:
    """Evidence that says grass (by the word asked for) and ball where they are.

    SAM's masks: the grass, the ball, the whole photo. A point on the ball gives the whole photo and the ball.
    """
    label_map = truth()
    ys, xs = np.mgrid[4:48:8, 4:64:8]
    points_xy = np.stack([xs.ravel(), ys.ravel()], 1)
    hit = label_map[points_xy[:, 1], points_xy[:, 0]]
    point_masks = np.stack([np.where(hit, 2, 0), np.where(hit, 1, -1), np.full(len(hit), -1)], 1)
    dense = np.zeros((*GRID, 5), np.float16)
    patches = label_map[4::8, 4::8]
    dense[patches == 0, grass_word] = 1
    dense[patches == 1, 2] = 1
    crops = np.zeros((2, 5), np.float16)
    crops[0, grass_word], crops[1, 2] = 1, 1
    return EvidenceRow(
        photo_id="a/b",
        size_hw=SIZE,
        grid_hw=GRID,
        crops=crops,
        crop_boxes=np.array([[0, 0, 1, 1], [0.5, 0, 1, 0.6]], np.float32),
        dense={"naclip": dense},
        masks=mask_set(
            np.stack([label_map == 0, label_map == 1, label_map >= 0]),
            points_xy,
            point_masks,
            automatic=np.array([False, True, True]),
        ),
    )
