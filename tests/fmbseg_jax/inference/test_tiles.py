"""Tiles over a picture: where scores depend on the place alone, what is stitched is the map of one piece."""

from pathlib import Path

import numpy as np
import pytest

from fmbseg_jax.inference import tiles as t
from fmbseg_jax.inference.label_maps import Background, pixel_classes
from labelgen.core.errors import UserError

CLASSES = 5


def stitched(tiles: t.Tiling, folder: Path, scores: np.ndarray, background: Background | None) -> np.ndarray:
    h, w = tiles.side_hw
    for row in range(len(tiles.starts(0))):
        path = t.row_path(folder, row)
        t.write_row(path, tiles, row, CLASSES, lambda top, left: scores[top : top + h, left : left + w])
    return np.concatenate(list(t.pixel_rows(t.blended(folder, tiles), tiles, background)))


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.8])
@pytest.mark.parametrize("size_hw", [(5, 9), (64, 40), (101, 333), (407, 190)])
def test_stitched_is_the_map_of_one_piece(size_hw: tuple[int, int], overlap: float, tmp_path: Path) -> None:
    tiles = t.tiling(size_hw, (6, 8), 4, 0, overlap)
    cells = tiles.cells_hw
    scores = np.random.default_rng(0).normal(size=(*cells, CLASSES)).astype(np.float32)
    for background in (None, Background(0.3, 0.5)):
        found = stitched(tiles, tmp_path, scores, background)
        one = pixel_classes(
            scores,
            np.eye(CLASSES, dtype=np.float32),
            tuple(range(CLASSES)),
            (cells[0] * 4, cells[1] * 4),
            None,
            background,
        )[: size_hw[0], : size_hw[1]]
        assert found.shape == size_hw
        assert (found != one).mean() < 1e-3  # ties after a mean of equal numbers, rounded


def test_in_an_overlap_each_tile_says_less_towards_its_edge(tmp_path: Path) -> None:
    tiles = t.tiling((24, 56), (6, 8), 4, 0, 0.25)
    assert tiles.starts(1) == [0, 6] and tiles.starts(0) == [0]
    said = iter([0.0, 1.0])

    def scores(top: int, left: int) -> np.ndarray:
        return np.full((6, 8, 1), next(said), np.float32)

    t.write_row(t.row_path(tmp_path, 0), tiles, 0, 1, scores)
    (found,) = t.blended(tmp_path, tiles)
    assert found.shape == (6, 14, 1)
    assert np.allclose(found[3, :, 0], [0] * 6 + [0.25, 0.75] + [1] * 6)


def test_a_tile_of_other_px() -> None:
    assert t.tiling((100, 100), (6, 8), 4, 80, 0.2).cell_px == 10
    with pytest.raises(UserError, match=r"--tile_px=7: less than a px for each of 8 patches; take 8 or more"):
        t.tiling((100, 100), (6, 8), 4, 7, 0.2)
