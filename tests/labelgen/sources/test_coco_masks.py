"""Polygons and run lengths of COCO's json are the masks that COCO's own mask API makes of them."""

from typing import Any

import numpy as np
import pytest

from labelgen.sources.coco_masks import check, decode_string, mask_of, polygon_mask

# Size, polygons, and the compressed RLE that pycocotools 2.0.11 merges them to; checked there on 145,588 more.
OFFICIAL = {
    "four corners": ((12, 16), [[2.5, 1.25, 13.7, 3.1, 11.2, 10.6, 4.4, 9.9]], "U1494K00000000010OO1M3Mh0"),
    "star": ((9, 9), [[4.5, 0.5, 8.2, 8.4, 0.3, 3.2, 8.7, 3.1, 0.6, 8.3]], "<130133MM14OJ1320MN07"),
    "beyond the picture": ((8, 10), [[-3.2, 2.1, 5.5, -2.7, 14.3, 6.6, 3.1, 11.9]], "0X21oM"),
    "two that overlap": (
        (10, 10),
        [[1, 1, 6, 1, 6, 6, 1, 6], [4.2, 4.2, 8.6, 4.2, 8.6, 8.6, 4.2, 8.6]],
        ";5500003M03M00006",
    ),
    "points twice": ((7, 11), [[2, 2, 2, 2, 9.5, 2, 9.5, 2, 9.5, 5.5, 2, 5.5, 2, 2]], "`04300000000000005"),
    "less than a pixel": ((6, 6), [[2.1, 2.1, 2.3, 2.1, 2.3, 2.3]], "T1"),
    "tangled": (
        (15, 13),
        [
            [
                *(1.11, 3.08, 10.42, 7.57, 1.22, 5.63, 6.23, 2.08, 9.55, 1.48, 5.09, 6.72),
                *(5.6, 7.63, 9.59, 12.43, 3.69, 8.43, 9.05, 3.81, 0.02, 12.65, 3.88, 4.08),
            ]
        ],
        ";180K14OJ0028NH28OH170I16OJN1051KO103020g1",
    ),
    "the whole picture": ((40, 5), [[0, 0, 5, 0, 5, 40, 0, 40]], "0X6"),
}


def runs_by_hand(mask: np.ndarray) -> list[int]:
    """Run lengths column by column, zeros first, one pixel after the other."""
    runs, value = [0], False
    for pixel in mask.T.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def string_by_hand(runs: list[int]) -> str:
    """maskApi.h: from the fourth on differences to the number two before; five bits a character, lowest first."""
    text = ""
    for i, run in enumerate(runs):
        number = run - runs[i - 2] if i > 2 else run
        while True:
            digit, number = number & 31, number >> 5
            done = number == (-1 if digit & 16 else 0)
            text += chr(48 + digit + 32 * (not done))
            if done:
                break
    return text


@pytest.mark.parametrize("name", OFFICIAL)
def test_polygons_give_the_official_pixels(name: str) -> None:
    size_hw, rings, counts = OFFICIAL[name]
    mask = mask_of(rings, size_hw)
    assert mask.dtype == np.bool_ and mask.shape == size_hw
    assert string_by_hand(runs_by_hand(mask)) == counts
    assert np.array_equal(mask, mask_of({"size": list(size_hw), "counts": counts}, size_hw))


def test_a_rectangle_on_pixel_borders_has_the_pixels_within() -> None:
    expected = np.zeros((5, 6), bool)
    expected[1:3, 2:5] = True
    for ring in ([2, 1, 5, 1, 5, 3, 2, 3], [2, 3, 5, 3, 5, 1, 2, 1], [5, 3, 2, 3, 2, 1, 5, 1]):
        assert np.array_equal(polygon_mask(ring, (5, 6)), expected)


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("size_hw", [(1, 1), (7, 5), (61, 83)])
def test_run_lengths_as_numbers_and_as_a_string_are_the_mask(share: float, size_hw: tuple[int, int]) -> None:
    mask = np.random.default_rng(1).random(size_hw) < share
    runs = runs_by_hand(mask)
    assert np.array_equal(mask_of({"size": list(size_hw), "counts": runs}, size_hw), mask)
    text = string_by_hand(runs)
    assert decode_string(text).tolist() == runs
    assert np.array_equal(mask_of({"size": list(size_hw), "counts": text}, size_hw), mask)


def test_long_runs_take_several_characters() -> None:
    runs = [3, 40, 5_000, 7, 12_345_678, 1, 2, 1_000_000]
    assert decode_string(string_by_hand(runs)).tolist() == runs


RLE = {"size": [2, 3], "counts": [2, 4]}


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (None, "no segmentation"),
        ([], "no segmentation"),
        ([[1, 1, 2, 2]], "a polygon that is not a list of three or more points"),
        ([[1, 1, 2, 2, 3, 3, 4]], "a polygon that is not"),
        ([[1, 1, 2, 2, "a", "b"]], "a polygon that is not"),
        ([[1, 1, 2, 2, 3, float("nan")]], "a polygon that is not"),
        ([1, 1, 2, 2, 3, 3], "a polygon that is not"),
        (RLE | {"size": [3, 2]}, r"its RLE has size \[3, 2\], its image record \[2, 3\]"),
        ({"counts": [6]}, "its RLE has size None"),
        (RLE | {"counts": [2, 3]}, "its RLE does not fill 3 x 2 px"),
        (RLE | {"counts": [2, -1, 5]}, "does not fill"),
        (RLE | {"counts": [2.5, 3.5]}, "neither whole numbers nor a string"),
        ({"size": [2, 3]}, "neither whole numbers nor a string"),
        (RLE | {"counts": "25"}, "does not fill"),
        (RLE | {"counts": "2T"}, "cut short or altered"),
        (RLE | {"counts": "2 4"}, "cut short or altered"),
        (RLE | {"counts": "2\u20ac"}, "cut short or altered"),
        (RLE | {"counts": "P" * 9 + "0"}, "cut short or altered"),
        (RLE | {"counts": ""}, "cut short or altered"),
    ],
)
def test_what_cannot_be_a_segmentation_is_refused(segmentation: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        mask_of(segmentation, (2, 3))


def test_sizes_are_checked_without_decoding() -> None:
    check(RLE | {"counts": "not looked at"}, (2, 3))
    check([[0, 0, 1, 0, 1, 1]], (2, 3))
    with pytest.raises(ValueError, match="its RLE has size"):
        check(RLE, (3, 3))
