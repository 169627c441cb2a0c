"""Pixels of more than 8 bits and of more than three bands: scaled by what is known of them, or refused."""

import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax.inference.segmenter import as_pixels
from fmbseg_jax.serving.session import decoded
from labelgen.core.errors import PhotoError, UserError
from labelgen.sources import decoding
from labelgen.sources.decoding import decode_photo, read_photo
from tests.worlds.deep_pictures import png, separate, tiff

RNG = np.random.default_rng(0)
RAMP = np.linspace(0, 1, 40 * 30).reshape(40, 30)
COLOURS = np.stack([RAMP, RAMP[::-1], RAMP**2], -1)
BITS_12 = (COLOURS * 4095).round().astype(np.uint16)
WHOLE = 1e9


@pytest.fixture(autouse=True)
def silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is a process of its own for what is said once."""
    monkeypatch.setattr(decoding, "_said", set())


def everywhere(data: bytes, folder: Path) -> np.ndarray:
    """The pixels, which are the same whichever way a photo comes in."""
    (folder / "a").write_bytes(data)
    ways = [
        read_photo(folder / "a", 10**6),
        decode_photo(data, Path("a"), 10**6),
        as_pixels(folder / "a", 10**6),
        as_pixels(Image.open(folder / "a"), 10**6),
        as_pixels(Image.open(io.BytesIO(data)), 10**6),
        decoded(data, 10**6),
    ]
    assert all(np.array_equal(way, ways[0]) and way.dtype == np.uint8 for way in ways)
    return ways[0].astype(int)


def stretched(values: np.ndarray) -> np.ndarray:
    """By the percentiles .5 and 99.5 of all values."""
    ordered = np.sort(values, axis=None)
    low, high = (ordered[round(share * (ordered.size - 1))] for share in (0.005, 0.995))
    return np.rint((values.astype(float).clip(low, high) - low) * 255 / (high - low)).astype(int)


def near(found: np.ndarray, expected: np.ndarray) -> bool:
    return found.shape == expected.shape and abs(found - expected).max() <= 1


@pytest.mark.parametrize("write", [png, lambda v: tiff(v, 1), lambda v: tiff(v, 1, order=">")], ids=["png", "II", "MM"])
def test_12_bits_of_grey_in_16_are_scaled_by_percentiles(
    write: object, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(write)
    grey = BITS_12[..., :1]
    found = everywhere(write(grey), tmp_path)
    assert near(found, np.repeat(stretched(grey), 3, -1)) and found.min() == 0 and found.max() == 255
    said = capsys.readouterr().err
    assert said.count("\n") == 1, "once for all photos"
    assert "a: more than 8 bits, of a range that the file does not say (0 to 4095); such photos are scaled by" in said


@pytest.mark.parametrize("write", [png, lambda v: tiff(v, 2), lambda v: tiff(v, 2, order=">")], ids=["png", "II", "MM"])
def test_12_bits_of_colour_keep_their_colours(write: object, tmp_path: Path) -> None:
    assert callable(write)
    assert near(everywhere(write(BITS_12), tmp_path), stretched(BITS_12))


def test_compressed_and_turned(tmp_path: Path) -> None:
    turned = tiff(BITS_12, 2, t274=(6,))
    assert near(everywhere(turned, tmp_path), stretched(np.rot90(BITS_12, -1)))


def test_alpha_of_12_bits(tmp_path: Path) -> None:
    alpha = np.full((40, 30, 1), 4095, np.uint16)
    alpha[:20] = 0
    expected = stretched(BITS_12)
    expected[:20] = 255
    assert near(everywhere(png(np.concatenate([BITS_12, alpha], -1)), tmp_path), expected)
    grey = BITS_12[..., :1]
    expected = np.repeat(stretched(grey), 3, -1)
    expected[:20] = 255
    assert near(everywhere(png(np.concatenate([grey, alpha], -1)), tmp_path), expected)


def test_signed_values_of_a_ct(tmp_path: Path) -> None:
    ct = (RAMP * 4000 - 1024).round().astype(np.int16)[..., None]
    assert near(everywhere(tiff(ct, 1), tmp_path), np.repeat(stretched(ct), 3, -1))
    wide = ct.astype(np.int32) * 1000
    assert near(everywhere(tiff(wide, 1), tmp_path), np.repeat(stretched(wide), 3, -1))


@pytest.mark.parametrize("bands", [1, 3])
def test_a_range_that_the_file_declares_is_taken(
    bands: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dim = (BITS_12 // 4)[..., :bands]
    expected = np.broadcast_to(np.rint(dim * (255 / 4095)), (40, 30, 3)).astype(int)
    for data in (
        png(dim, significant=12),
        tiff(dim, 1 if bands == 1 else 2, t281=(4095,) * bands),
        tiff(dim, 1 if bands == 1 else 2, t280=(0,) * bands, t281=(4095,) * bands),
    ):
        assert near(everywhere(data, tmp_path), expected)
    assert not capsys.readouterr().err


def test_a_declared_range_may_begin_below_zero(tmp_path: Path) -> None:
    ct = (RAMP * 2000 - 1000).round().astype(np.int16)[..., None]
    data = tiff(ct, 1, t280=(0,), t281=(1000,))
    expected = np.rint(ct.clip(0, 1000) * 0.255).astype(int)
    assert near(everywhere(data, tmp_path), np.repeat(expected, 3, -1))


@pytest.mark.parametrize("significant", [0, 12])
def test_16_bits_that_are_used_keep_their_upper_8(
    significant: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = (COLOURS * 65535).round().astype(np.uint16)
    assert np.array_equal(everywhere(png(deep, significant), tmp_path), deep >> 8)
    assert np.array_equal(everywhere(png(deep[..., :1], significant), tmp_path), np.repeat(deep[..., :1] // 257, 3, -1))
    assert np.array_equal(everywhere(tiff(deep, 2), tmp_path), deep >> 8)
    assert not capsys.readouterr().err


def test_few_bright_pixels_do_not_make_the_rest_black(tmp_path: Path) -> None:
    hot = BITS_12[..., :1].copy()
    hot[5, 5:8] = 65535
    found = everywhere(png(hot), tmp_path)
    assert found[..., 0].mean() == pytest.approx(127, abs=3)


@pytest.mark.parametrize("nothing", [-9999, 0])
def test_pixels_of_nothing_do_not_count_where_the_file_names_them(nothing: int, tmp_path: Path) -> None:
    heights = (RAMP * 2000 + 500).round().astype(np.int16)[..., None]
    heights[:, :10] = nothing
    low, high = np.percentile(heights[:, 10:], (0.5, 99.5), method="nearest")
    expected = np.rint((heights.astype(float).clip(low, high) - low) * 255 / (high - low)).astype(int)
    found = everywhere(tiff(heights, 1, t42113=str(nothing)), tmp_path)
    assert near(found, np.repeat(expected, 3, -1)) and not found[:, :10].any()
    everywhere(tiff(heights, 1, t42113="nan"), tmp_path)
    everywhere(tiff(np.full_like(heights, nothing), 1, t42113=str(nothing)), tmp_path)


def test_white_is_zero_where_the_file_says_so(tmp_path: Path) -> None:
    for values in (BITS_12[..., :1], (COLOURS[..., :1] * 65535).astype(np.uint16)):
        assert np.array_equal(everywhere(tiff(values, 0), tmp_path), 255 - everywhere(tiff(values, 1), tmp_path))


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (7, 0), (40000, 155)])
def test_one_value_throughout_has_no_range(value: int, expected: int, tmp_path: Path) -> None:
    flat = np.full((4, 4, 1), value, np.uint16)
    assert (everywhere(png(flat), tmp_path) == expected).all()
    flat[1, 1] += 5
    assert set(everywhere(png(flat), tmp_path)[..., 0].ravel()) == ({0, 255} if value < 16384 else {155})


RGB = (COLOURS * 255).round().astype(np.uint8)
NEAR_INFRARED = RNG.integers(40, 200, (40, 30, 1), np.uint8)


@pytest.mark.parametrize("extras", [(), (0,), (2,)], ids=["undeclared", "unspecified", "declared as alpha"])
def test_near_infrared_is_no_alpha(extras: tuple[int, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = everywhere(tiff(np.concatenate([RGB, NEAR_INFRARED], -1), 2, extras), tmp_path)
    assert np.array_equal(found, RGB)
    said = "a: has a fourth band that is no alpha" in capsys.readouterr().err
    assert said == (extras != (0,))


def test_a_second_band_beside_grey_is_no_alpha_either(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = everywhere(tiff(np.concatenate([RGB[..., :1], NEAR_INFRARED], -1), 1, (2,)), tmp_path)
    assert np.array_equal(found, RGB[..., [0, 0, 0]])
    assert "a: has a second band that is no alpha" in capsys.readouterr().err
    alpha = np.where(NEAR_INFRARED < 120, 0, 255).astype(np.uint8)
    found = everywhere(tiff(np.concatenate([RGB[..., :1], alpha], -1), 1, (2,)), tmp_path)
    assert np.array_equal(found, np.where(alpha == 0, 255, RGB[..., [0, 0, 0]]))


def test_of_several_pages_the_first_is_taken_which_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, "TIFF", save_all=True, append_images=[Image.fromarray(255 - RGB)])
    assert np.array_equal(everywhere(data.getvalue(), tmp_path), RGB)
    assert "a: has 2 pages; of such photos the first is taken" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_a_second_page_that_is_not_there_is_none(tmp_path: Path) -> None:
    data = io.BytesIO()
    Image.fromarray(RGB).save(data, "TIFF")
    torn = bytearray(data.getvalue())
    tags = int.from_bytes(torn[4:8], "little")
    after = tags + 2 + 12 * int.from_bytes(torn[tags : tags + 2], "little")
    torn[after : after + 4] = (10**6).to_bytes(4, "little")
    assert np.array_equal(everywhere(bytes(torn), tmp_path), RGB)


def test_signed_values_of_8_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(tiff((RGB[..., :1].astype(np.int16) - 128).astype(np.int8), 1))
    with pytest.raises(PhotoError, match="signed values of 8 bits"):
        read_photo(tmp_path / "a.tif", 10**6)


def test_colours_are_not_divided_by_near_infrared(tmp_path: Path) -> None:
    assert np.array_equal(everywhere(tiff(np.concatenate([RGB, NEAR_INFRARED], -1), 2, (1,)), tmp_path), RGB)
    deep = np.concatenate([BITS_12, BITS_12[..., :1] // 2 + 500], -1)
    for extras in ((), (0,), (1,), (2,)):
        assert near(everywhere(tiff(deep, 2, extras), tmp_path), stretched(BITS_12))


@pytest.mark.parametrize("depth", [1, 16], ids=["12 bits", "16 bits"])
@pytest.mark.parametrize("extras", [(), (0,), (2,)], ids=["RGB", "unspecified", "alpha"])
def test_bands_apart_from_each_other_are_the_same_photo(depth: int, extras: tuple[int, ...], tmp_path: Path) -> None:
    values = BITS_12 * np.uint16(depth)
    if extras:
        values = np.concatenate([values, np.full((40, 30, 1), 4095 * depth, np.uint16)], -1)
        values[:5, :, 3] = 0
    assert np.array_equal(
        everywhere(separate(values, 2, extras), tmp_path), everywhere(tiff(values, 2, extras), tmp_path)
    )


def test_compressed_bands_apart_are_refused_where_half_of_each_value_would_be_lost(tmp_path: Path) -> None:
    full = BITS_12 * np.uint16(16)
    assert np.array_equal(everywhere(separate(full, 2, deflated=True), tmp_path), full >> 8)
    with pytest.raises(PhotoError, match="16 bits a channel, compressed, in separate planes") as error:
        decode_photo(separate(BITS_12, 2, deflated=True), Path("a"), 10**6)
    assert "INTERLEAVE=PIXEL" in error.value.fix


def test_alpha_of_a_tiff_shows_white(tmp_path: Path) -> None:
    alpha = np.full((40, 30, 1), 255, np.uint8)
    alpha[:30] = 0
    alpha[30] = 100
    found = everywhere(tiff(np.concatenate([RGB, alpha], -1), 2, (2,)), tmp_path)
    assert (found[:30] == 255).all() and np.array_equal(found[31:], RGB[31:]) and (found[30] > RGB[30]).any()
    alpha[:] = 0  # nothing would be seen
    assert np.array_equal(everywhere(tiff(np.concatenate([RGB, alpha], -1), 2, (2,)), tmp_path), RGB)


@pytest.mark.parametrize(
    ("values", "photometric", "extras", "named"),
    [
        (np.zeros((4, 4, 5), np.uint8), 2, (0, 0), "5 bands of 8 bits (R, G, B, unspecified, unspecified)"),
        (np.zeros((4, 4, 5), np.uint8), 2, (2, 0), "5 bands of 8 bits (R, G, B, alpha, unspecified)"),
        (np.zeros((4, 4, 5), np.uint16), 2, (0, 0), "5 bands of 16 bits (R, G, B, unspecified, unspecified)"),
        (np.zeros((4, 4, 3), np.uint16), 1, (0, 0), "3 bands of 16 bits (grey, unspecified, unspecified)"),
        (np.zeros((4, 4, 3), np.float32), 2, (), "3 bands of 32 bits (R, G, B)"),
        (
            np.zeros((4, 4, 13), np.uint16),
            1,
            (0,) * 12,
            f"13 bands of 16 bits (grey, {', '.join(['unspecified'] * 12)})",
        ),
    ],
)
def test_more_bands_than_colours_have_are_refused_by_name(
    values: np.ndarray, photometric: int, extras: tuple[int, ...], named: str, tmp_path: Path
) -> None:
    (tmp_path / "a.tif").write_bytes(tiff(values, photometric, extras))
    with pytest.raises(PhotoError) as error:
        read_photo(tmp_path / "a.tif", 10**6)
    assert error.value.reason == named and "gdal_translate -b 1 -b 2 -b 3" in error.value.fix
    with pytest.raises(UserError, match=rf"a.tif: {re.escape(named)}; write the three that are to be seen"):
        as_pixels(tmp_path / "a.tif", 10**6)
    with pytest.raises(UserError, match=rf"this picture: {re.escape(named)}; "):
        decoded((tmp_path / "a.tif").read_bytes(), 10**6)


def test_a_torn_tiff_is_not_called_one_of_odd_bands(tmp_path: Path) -> None:
    for data in (b"II*\0", b"II*\0\xff\xff\xff\xff", b"II*\0\x08\0\0\0\0\0", tiff(RGB, 2)[:9]):
        with pytest.raises(PhotoError, match="not a picture in a format|cannot be decoded"):
            decode_photo(data, Path("a.tif"), 10**6)
