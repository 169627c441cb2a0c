"""Several photos in work at a time, on the CPU: what the bytes of a photo depend on, and what they do not."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
import torch

from labelgen.core.config import load_config
from labelgen.data import rle
from labelgen.data.records import PhotoRows
from labelgen.data.rle import MaskSet
from labelgen.models import compute
from labelgen.models.teachers import Encoders
from labelgen.sources.photos import Photo
from pocket import scenes

PHOTOS = [Photo(f"{i}", scenes.draw(0, i).photo) for i in range(3)]


@pytest.fixture(scope="module", name="encoders")
def encoders_fixture() -> Encoders:
    return Encoders(load_config("configs/pocket.py", ["device=cpu"]))


@pytest.fixture(scope="module", name="alone")
def alone_fixture(encoders: Encoders) -> list[PhotoRows]:
    """One photo after the other, on one thread."""
    return encoded(encoders, 1)


@pytest.fixture(autouse=True, name="own_threads")
def own_threads_fixture() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def encoded(encoders: Encoders, threads: int) -> list[PhotoRows]:
    torch.set_num_threads(threads)
    return list(encoders.encode_photos(iter(PHOTOS)))


def as_bytes(rows: Sequence[PhotoRows]) -> list[list[bytes]]:
    return [[row.encode() for row in photo if row] for photo in rows]


def bitmaps(masks: MaskSet) -> np.ndarray:
    return rle.decode(masks, range(len(masks.iou)))


@pytest.mark.parametrize("lanes", [2, 4])
def test_bytes_do_not_depend_on_how_many_photos_are_in_work(
    encoders: Encoders, alone: list[PhotoRows], lanes: int
) -> None:
    assert as_bytes(encoded(encoders, threads=lanes)) == as_bytes(alone)
    assert compute.Lanes(torch.device("cpu")).count == lanes


def test_several_threads_a_photo_round_otherwise(encoders: Encoders, alone: list[PhotoRows]) -> None:
    threads = 2 * compute.LANES
    for (features, evidence, _), (like, expected, _) in zip(encoded(encoders, threads), alone, strict=True):
        np.testing.assert_allclose(features.features.astype(np.float32), like.features.astype(np.float32), atol=0.02)
        np.testing.assert_allclose(evidence.crops, expected.crops, atol=2e-3)
        for variant, dense in evidence.dense.items():
            np.testing.assert_allclose(dense, expected.dense[variant], atol=2e-3)
        masks, others = evidence.masks, expected.masks
        np.testing.assert_allclose(masks.iou, others.iou, atol=1e-5)
        np.testing.assert_array_equal(masks.point_masks, others.point_masks)
        first, second = bitmaps(masks), bitmaps(others)
        shared, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
        assert (shared / either).mean() > 0.99
