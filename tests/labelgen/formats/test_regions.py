"""Polygons of label maps: rings by hand, holes, corners that touch; painted in order they are the map again."""

import numpy as np
import pytest

from labelgen.formats.regions import NO_CLASS, Outlines, outlines, signed_area
from labelgen.sources.coco_masks import polygon_mask
from tests.worlds.painting import inside, painted


def of(*rows: str, confidence: np.ndarray | None = None) -> Outlines:
    """Outlines of a map drawn with digits, "." unlabelled."""
    return outlines(drawn(*rows), confidence)


def drawn(*rows: str) -> np.ndarray:
    return np.array([[-1 if c == "." else int(c) for c in row] for row in rows], np.int32)


def turned(ring: np.ndarray) -> list[tuple[int, int]]:
    """The ring from its upper left corner on."""
    points = [(int(x), int(y)) for x, y in ring]
    first = points.index(min(points, key=lambda point: (point[1], point[0])))
    return points[first:] + points[:first]


def test_a_ring_has_the_corners_of_the_region_alone_clockwise_as_seen() -> None:
    (region,) = of("....", ".33.", ".3..", ".3..").regions
    assert region.value == 3 and region.holes == 0 and region.confidence is None
    assert turned(region.ring_xy) == [(1, 1), (3, 1), (3, 2), (2, 2), (2, 4), (1, 4)]
    assert signed_area(region.ring_xy) == 4


def test_a_photo_of_one_class_is_its_frame() -> None:
    (region,) = of("00000", "00000").regions
    assert turned(region.ring_xy) == [(0, 0), (5, 0), (5, 2), (0, 2)]


def test_pixels_that_meet_at_a_corner_are_two_regions() -> None:
    regions = of("1.", ".1").regions
    assert sorted(turned(region.ring_xy) for region in regions) == [
        [(0, 0), (1, 0), (1, 1), (0, 1)], [(1, 1), (2, 1), (2, 2), (1, 2)],
    ]  # fmt: skip


def test_what_leaves_a_region_by_a_corner_is_no_hole() -> None:
    (region,) = of("222", "2.2", "22.").regions
    assert region.holes == 0 and signed_area(region.ring_xy) == 7


def test_a_hole_is_painted_over_by_what_lies_in_it() -> None:
    found = of("00000", "01.10", "01110", "0..30", "00000")
    assert sorted((region.value, region.holes) for region in found.regions) == [
        (-1, 0),
        (-1, 0),
        (0, 1),
        (1, 0),
        (3, 0),
    ]
    assert found.regions[0].value == 0 and found.with_holes == 1 and found.unlabelled_px == 3


def test_what_lies_in_unlabelled_pixels_that_lie_in_a_hole_is_painted_last() -> None:
    found = of("000000", "0....0", "0.21.0", "0....0", "000000")
    assert [region.value for region in found.regions[:2]] == [0, NO_CLASS] and found.regions[1].holes == 1
    assert sorted(region.value for region in found.regions[2:]) == [1, 2] and found.unlabelled_px == 10


def test_unlabelled_pixels_outside_of_holes_need_no_polygon() -> None:
    found = of("..1", "...", "2..")
    assert sorted(region.value for region in found.regions) == [1, 2] and found.unlabelled_px == 0


def test_confidence_is_the_mean_of_the_regions_pixels() -> None:
    confidence = np.array([[255, 0, 51], [102, 9, 204]], np.uint8)
    found = {region.value: region.confidence for region in of("0.1", "0.1", confidence=confidence).regions}
    assert found == pytest.approx({0: (255 + 102) / 2 / 255, 1: 0.5})


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("unlabelled", [0.0, 0.3])
def test_painted_in_order_polygons_are_the_map_again(classes: int, unlabelled: float) -> None:
    rng = np.random.default_rng(classes)
    for _ in range(40):
        size_hw = tuple(int(side) for side in rng.integers(1, 14, 2))
        label_map = rng.integers(0, classes, size_hw).astype(np.int32)
        label_map[rng.random(size_hw) < unlabelled] = -1
        found = outlines(label_map)
        polygons = [(region.value, region.ring_xy) for region in found.regions]
        assert np.array_equal(painted(polygons, size_hw), label_map)
        without = painted([pair for pair in polygons if pair[0] != NO_CLASS], size_hw)
        assert np.array_equal(without[label_map >= 0], label_map[label_map >= 0])
        assert (without != label_map).sum() == found.unlabelled_px
        for _, ring in polygons:  # COCO's rule for pixels in polygons says the same
            assert np.array_equal(polygon_mask(ring.ravel().astype(float), size_hw), inside(ring, size_hw))
