"""Dense CLIP from patch features: a linear map that knows no words, by which words new to the head are found.

The head is trained with some words and tells those classes apart; what was not among them it calls by the name of one
that was. CLIP's dense maps name anything, vaguely. Ridge regression from patch features to them, over photos of the
training split, keeps what the features can tell: sharper than the maps that it learns from, and as open as they are.
"""

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.runs import hosts
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.data.records import EvidenceRow, FeatureRow
from labelgen.labels.presence import dense_map, sample

Array = NDArray[np.float32]
PHOTOS = 256
"""At most so many are learnt from: a map of D x E numbers needs no more patches than theirs."""
RIDGE = 1e-3
"""Of the mean square of a feature."""


def fit_dense_map(data: Dataset, split: str, variant: str) -> Array | None:
    """float32 [D + 1, E], the last row a bias: features [D] to a direction in text space. None, and said, where DATA
    has no evidence of these patches.

    variant: of the dense maps, as labels.variant. Over several hosts the first one's counts; the others' is zero. All
    hosts must call it.
    """
    weights: Array | None = np.zeros((data.feature_width + 1, data.text_width), np.float32)
    if hosts.is_first():
        try:
            weights = _fit(data, split, variant)
        except UserError as error:
            weights = None
            print(f"no dense map, words new to the head will be asked of it alone: {error}", file=hosts.errors())
    return None if hosts.any_of(weights is None) else weights


def _fit(data: Dataset, split: str, variant: str) -> Array:
    rows = sample(data.count(split), PHOTOS)
    data.stage(split, ["features", "evidence"], rows)
    features, evidence = (data.reader(family, split) for family in ("features", "evidence"))
    width = data.feature_width + 1
    squares, products = np.zeros((width, width)), np.zeros((width, data.text_width))
    for i in rows:
        row, evidence_row = FeatureRow.decode(features[i]), EvidenceRow.decode(evidence[i])
        missing = set(variant.split("+")) - evidence_row.dense.keys()
        if missing or row.grid_hw != evidence_row.grid_hw:
            raise UserError(f"{data.path}: evidence of {row.photo_id} has no map {variant!r} of its patches")
        x, y = _with_bias(row), unit(dense_map(evidence_row, variant)).reshape(-1, data.text_width)
        squares += x.T @ x
        products += x.T @ y
    ridge = RIDGE * np.trace(squares) / width
    return np.asarray(np.linalg.solve(squares + ridge * np.eye(width), products), np.float32)


def densely_embedded(row: FeatureRow, weights: Array) -> Array:
    """Unit rows float32 [h', w', E] of the photo's valid patches by a map of `fit_dense_map`."""
    return unit(_with_bias(row) @ weights).reshape(*row.grid_hw, -1)


def unit(x: Array) -> Array:
    """Rows of length one; zero stays zero."""
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), 1e-12), np.float32)


def _with_bias(row: FeatureRow) -> Array:
    """float32 [h' w', D + 1]: the valid patches, each with a one at its end."""
    height, width = row.grid_hw
    x = row.features[:height, :width].reshape(height * width, -1).astype(np.float32)
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], 1)
