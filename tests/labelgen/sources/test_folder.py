"""Folders of photos of every kind a person has: the picture a person would see, or a reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from labelgen.core.errors import PhotoError, UserError
from labelgen.sources.folders import folder_source
from labelgen.sources.photos import Source
from labelgen.sources.registry import open_source

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20
RGB = np.stack([GREY, 255 - GREY, GREY // 2], -1)


def source_of(root: Path | str, photos: str = "", masks: str = "", classes: int | None = None, **fields: Any) -> Source:
    config = get_config().photos
    config.update(root=str(root), splits={"train": {"photos": photos, "masks": masks}}, **fields)
    return open_source(config, "train", classes)


def load(folder: Path, name: str = "a.png", **options: Any) -> np.ndarray:
    image = source_of(folder, **options).load(name.split(".")[0]).image
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    return image


def test_rgb_png_is_kept(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png")
    assert np.array_equal(load(tmp_path), RGB)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (lambda: Image.fromarray(GREY.astype(np.uint16) * 257), np.stack([GREY] * 3, -1)),
        (lambda: Image.fromarray(GREY > 100), np.stack([np.where(GREY > 100, 255, 0)] * 3, -1)),
        (lambda: Image.fromarray(RGB).quantize(12), RGB),
        (lambda: Image.fromarray(np.dstack([GREY, np.full_like(GREY, 255)]), "LA"), np.stack([GREY] * 3, -1)),
    ],
    ids=["grey", "16-bit", "1-bit", "palette", "grey with alpha"],
)
def test_modes(tmp_path: Path, make: Callable[[], Image.Image], expected: np.ndarray) -> None:
    make().save(tmp_path / "a.png")
    assert np.array_equal(load(tmp_path), expected)


def test_transparency_shows_white(tmp_path: Path) -> None:
    alpha = np.zeros((3, 4), np.uint8)
    alpha[0] = 255
    Image.fromarray(np.dstack([RGB, alpha])).save(tmp_path / "a.png")
    image = load(tmp_path)
    assert np.array_equal(image[0], RGB[0]) and (image[1:] == 255).all()


def test_transparent_palette_shows_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "a.png", transparency=1)
    assert load(tmp_path).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (16, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    image = load(tmp_path, "a.jpg").astype(int)
    assert image.shape == (8, 16, 3) and abs(image - [255, 0, 0]).max() < 6


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_shows_the_photo_upright(tmp_path: Path, orientation: int) -> None:
    # The eight ways a camera stores a picture; undoing them by numpy is the independent reference.
    stored: dict[int, Callable[[np.ndarray], np.ndarray]] = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: np.rot90(a, 2).transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored[orientation](RGB))).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(load(tmp_path), RGB)


@pytest.mark.parametrize("size_wh", [(1, 1), (20000, 3), (3, 20000)])
def test_extreme_sizes_are_photos(tmp_path: Path, size_wh: tuple[int, int]) -> None:
    Image.new("RGB", size_wh, "red").save(tmp_path / "a.png")
    assert load(tmp_path).shape == (size_wh[1], size_wh[0], 3)


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    first, second = Image.new("P", (4, 4), 0), Image.new("P", (4, 4), 1)
    for frame in (first, second):
        frame.putpalette([255, 0, 0, 0, 255, 0])
    first.save(tmp_path / "a.gif", save_all=True, append_images=[second])
    assert load(tmp_path, "a.gif")[0, 0].tolist() == [255, 0, 0]


def truncated(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(folder / "b.jpg")
    raw = (folder / "b.jpg").read_bytes()
    (folder / "b.jpg").unlink()
    (folder / "a.jpg").write_bytes(raw[: len(raw) // 2])


@pytest.mark.parametrize(
    ("spoil", "reason", "fix"),
    [
        (truncated, "cannot be decoded: image file is truncated", "copy it again"),
        (lambda d: (d / "a.jpg").write_bytes(b""), "the file is empty", "copy it again"),
        (lambda d: (d / "a.jpg").write_text("<html>not found</html>"), "not a picture", "convert it to JPEG"),
        (lambda d: (d / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 99), "not a picture", "convert it"),
        (lambda d: Image.new("L", (40, 30)).save(d / "a.png"), "40 x 30 pixels are more than", "raise photos.max_pi"),
        (lambda d: Image.new("F", (4, 3)).save(d / "a.tif"), "floating-point pixels", "8 bits"),
        (lambda d: (d / "a.jpg").symlink_to(d / "gone.jpg"), "cannot be decoded: .*No such file", "copy it again"),
    ],
    ids=["truncated", "zero bytes", "html", "heic", "too large", "float", "dangling link"],
)
def test_bad_pictures_have_a_reason(tmp_path: Path, spoil: Callable[[Path], Any], reason: str, fix: str) -> None:
    spoil(tmp_path)
    source = folder_source(tmp_path, 1199 if reason.startswith("40") else 10_000)
    with pytest.raises(PhotoError, match=reason) as error:
        source.load("a")
    assert fix in error.value.fix and str(tmp_path) not in error.value.reason


def test_listing(tmp_path: Path) -> None:
    for name in ("b.PNG", "sub/a.jpeg", "sub/.hidden.jpg", "._b.png", "notes.txt", "a.tif", ".cache/x.png"):
        (tmp_path / "p" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2)).save(tmp_path / "p" / name, "PNG")
    source = source_of(tmp_path, "p")
    assert list(source.list()) == ["a", "b", "sub/a"] and source.file("sub/a") == "p/sub/a.jpeg"


def test_name_that_is_no_text(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2)).save(tmp_path / "x.png")
    (tmp_path / "x.png").rename(tmp_path / "a\udce9.png")
    with pytest.raises(PhotoError, match="not UTF-8"):
        source_of(tmp_path).load("a\udce9")


def test_setups_that_cannot_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="photos.root is not set"):
        source_of("")
    with pytest.raises(UserError, match="gone: no such folder of photos; fix photos.root"):
        source_of(tmp_path / "gone")
    with pytest.raises(UserError, match="val: no such folder"):
        source_of(tmp_path, "val")
    with pytest.raises(UserError, match="no pictures in it"):
        source_of(tmp_path)
    for name in ("a.png", "a.jpg"):
        Image.new("RGB", (2, 2)).save(tmp_path / name)
    with pytest.raises(UserError, match=r"a\.\w+ and a\.\w+ would have the same mask"):
        source_of(tmp_path)


def with_mask(folder: Path, mask: Image.Image) -> Path:
    for name in ("p", "m"):
        (folder / name).mkdir()
    Image.fromarray(RGB).save(folder / "p/a.png")
    mask.save(folder / "m/a.png")
    return folder


@pytest.mark.parametrize("mode", ["L", "P"])
def test_mask_values_are_classes(tmp_path: Path, mode: str) -> None:
    values = np.array([[0, 1, 2, 7]] * 3, np.uint8)
    mask = Image.fromarray(values, mode)
    if mode == "P":
        mask.putpalette(list(range(30)))
    source = source_of(with_mask(tmp_path, mask), "p", "m", 3, ignore_index=7)
    label_map = source.load("a").label_map
    assert label_map is not None and label_map.dtype == np.uint8
    assert label_map.tolist() == [[0, 1, 2, 255]] * 3


def test_many_classes_keep_16_bits(tmp_path: Path) -> None:
    values = np.array([[0, 300, 65535, 255]] * 3, np.uint16)
    source = source_of(with_mask(tmp_path, Image.fromarray(values)), "p", "m", 400, ignore_index=65535)
    label_map = source.load("a").label_map
    assert label_map is not None and label_map.dtype == np.uint16 and label_map.tolist() == values.tolist()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (Image.new("L", (3, 4)), r"m/a.png: 3 x 4 px, but its photo .*p/a.png has 4 x 3"),
        (
            Image.new("L", (4, 3), 3),
            "m/a.png: class index 3, but there are 3 classes, 0 to 2",
        ),
        (Image.new("RGB", (4, 3)), r"m/a.png: a mask of mode RGB; class indices"),
    ],
)
def test_wrong_masks_stop_the_run(tmp_path: Path, mask: Image.Image, message: str) -> None:
    source = source_of(with_mask(tmp_path, mask), "p", "m", 3)
    with pytest.raises(UserError, match=message):
        source.load("a")


def test_altered_and_missing_masks(tmp_path: Path) -> None:
    folder = with_mask(tmp_path, Image.new("L", (4, 3)))
    source = source_of(folder, "p", "m", 3)
    (folder / "m/a.png").write_bytes((folder / "m/a.png").read_bytes()[:45])
    with pytest.raises(UserError, match="m/a.png: the mask cannot be read"):
        source.load("a")
    (folder / "m/a.png").unlink()
    with pytest.raises(UserError, match="m/a.png: no such mask; 1 of 1 masks are missing, this is the first"):
        source_of(folder, "p", "m", 3)


def test_black_and_white_masks_are_foreground_and_background(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[0, 100, 127, 128]] * 2 + [[255, 200, 3, 0]], np.uint8))
    source = source_of(with_mask(tmp_path, mask), "p", "m", 7, source="black_and_white")
    label_map = source.load("a").label_map
    assert source.classes == ("background", "foreground")
    assert label_map is not None and label_map.tolist() == [[0, 0, 0, 1], [0, 0, 0, 1], [1, 1, 0, 0]]


def test_masks_of_one_bit_are_black_and_white_too(tmp_path: Path) -> None:
    mask = Image.fromarray(np.array([[0, 255, 0, 255]] * 3, np.uint8)).convert("1")
    label_map = source_of(with_mask(tmp_path, mask), "p", "m", source="black_and_white").load("a").label_map
    assert label_map is not None and label_map.tolist() == [[0, 1, 0, 1]] * 3


def test_truth_is_left_alone_where_only_the_photos_are_wanted(tmp_path: Path) -> None:
    config = get_config().photos
    folder = with_mask(tmp_path, Image.new("RGB", (9, 9)))
    config.update(root=str(folder), splits={"train": {"photos": "p", "masks": "m"}})
    source = open_source(config, "train", truth=False)
    assert source.load("a").label_map is None and not source.has_truth and source.classes is None
