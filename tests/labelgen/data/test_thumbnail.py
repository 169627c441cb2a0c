"""Whether a picture is still the photo that was encoded."""

import io

import numpy as np
import pytest
from PIL import Image

from labelgen.data.records import FeatureRow
from labelgen.data.thumbnail import is_same, thumbnail
from tests.worlds.rows import feature_row

SIZE = (61, 83)


def scene(seed: int) -> np.ndarray:
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), np.uint8)
    return np.asarray(Image.fromarray(blocks).resize(SIZE[::-1], Image.Resampling.BICUBIC))


def test_another_decoding_is_the_same_photo_and_another_photo_is_not() -> None:
    known, buffer = thumbnail(scene(0)), io.BytesIO()
    assert known.shape == (8, 8, 3) and known.dtype == np.uint8
    Image.fromarray(scene(0)).save(buffer, "JPEG", quality=75)
    assert is_same(np.asarray(Image.open(buffer)), SIZE, known)
    assert not is_same(scene(1), SIZE, known)
    assert not is_same(scene(0)[:, ::-1], SIZE, known)
    assert not is_same(scene(0)[1:], SIZE, known)
    assert is_same(scene(1), SIZE, None)  # DATA from before it was kept


def test_means_of_areas_by_hand() -> None:
    image = np.arange(16 * 24 * 3, dtype=np.int64).reshape(16, 24, 3) % 251
    expected = image.reshape(8, 2, 8, 3, 3).mean((1, 3))
    assert np.abs(thumbnail(image.astype(np.uint8)) - expected).max() <= 1  # rounded twice
    assert np.array_equal(thumbnail(np.full((3, 2, 3), 7, np.uint8)), np.full((8, 8, 3), 7))


@pytest.mark.parametrize("known", [None, thumbnail(scene(0))])
def test_a_row_keeps_it(known: np.ndarray | None) -> None:
    row = feature_row()
    again = FeatureRow.decode(FeatureRow(*list(vars(row).values())[:5], thumbnail=known).encode()).thumbnail
    assert again is None if known is None else np.array_equal(again, known)
