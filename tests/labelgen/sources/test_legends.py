"""What names the pixels of masks of other tools: label maps beside them, colours, palettes in another order."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology, parse_words
from labelgen.formats.classes import class_infos
from labelgen.formats.palette import palette as colours_of
from labelgen.sources.corrections import open_corrections
from labelgen.sources.legends import by_legend, find_legend, voc_colours
from labelgen.sources.photos import Source
from labelgen.sources.registry import open_source

WORDS = parse_words(["cat", "dog", "person"], "words")
LABELMAP = "# label:color_rgb:parts:actions\nperson:0,0,64::\nbackground:0,0,0::\ndog:10,20,30::\ncat:200,0,0::\n"
COLOURS = {"person": (0, 0, 64), "background": (0, 0, 0), "dog": (10, 20, 30), "cat": (200, 0, 0)}
DRAWN = np.array([["cat", "cat", "background"], ["dog", "person", "background"]])
MEANT = [[0, 0, -1], [1, 2, -1]]


def coloured(names: np.ndarray, colours: dict[str, tuple[int, int, int]] = COLOURS) -> Image.Image:
    return Image.fromarray(np.array([[colours[name] for name in row] for row in names], np.uint8))


def indexed(names: np.ndarray, order: list[str], palette: bool = True, mode: Any = np.uint8) -> Image.Image:
    image = Image.fromarray(np.array([[order.index(name) for name in row] for row in names], mode))
    if not palette:
        return image
    image = Image.frombytes("P", image.size, image.tobytes())
    image.putpalette([part for name in order for part in COLOURS[name]])
    return image


LINES = ["person", "background", "dog", "cat"]


@pytest.mark.parametrize(
    "image",
    [
        coloured(DRAWN),
        coloured(DRAWN).convert("RGBA"),
        indexed(DRAWN, LINES),
        indexed(DRAWN, ["cat", "person", "background", "dog"]),
        indexed(DRAWN, LINES, palette=False),
        indexed(DRAWN, LINES, palette=False, mode=np.uint16),
    ],
    ids=["colours", "opaque", "palette", "palette in another order", "grey indices", "16 bits"],
)
@pytest.mark.parametrize("place", ["in", "beside", "above"])
def test_a_label_map_names_the_masks_of_corrections(tmp_path: Path, image: Image.Image, place: str) -> None:
    """As CVAT and datumaro export Pascal VOC; its background is what nobody has drawn."""
    folder = tmp_path / "SegmentationClass"
    for name in ("SegmentationClass", "SegmentationObject", "JPEGImages"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (3, 2), "red").save(tmp_path / name / "a.png")
    image.save(folder / "a.png")
    (tmp_path / ("SegmentationClass" if place == "in" else "") / "labelmap.txt").write_text(LABELMAP)
    corrections = open_corrections(tmp_path if place == "above" else folder, WORDS)
    assert corrections.names() == ["a.png"]
    drawn = corrections.load("a.png")
    assert drawn.dtype == np.int32 and drawn.tolist() == MEANT
    assert +corrections.remarks == {"with background taken as unlabelled, which the words do not have": 1}


def test_the_label_map_of_a_splits_folder_lies_above_its_kind(tmp_path: Path) -> None:
    (tmp_path / "SegmentationClass/train").mkdir(parents=True)
    coloured(DRAWN).save(tmp_path / "SegmentationClass/train/a.png")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    assert open_corrections(tmp_path / "SegmentationClass/train", WORDS).load("a.png").tolist() == MEANT


def test_background_that_is_a_class_of_the_words_is_one(tmp_path: Path) -> None:
    coloured(DRAWN).save(tmp_path / "a.png")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    corrections = open_corrections(tmp_path, parse_words(["background: wall", "dog", "cat", "person"], "words"))
    assert corrections.load("a.png").tolist() == [[2, 2, 0], [1, 3, 0]] and not +corrections.remarks


def test_masks_that_are_all_background_are_of_photos_that_nobody_has_drawn(tmp_path: Path) -> None:
    coloured(DRAWN).save(tmp_path / "a.png")
    coloured(np.full((2, 3), "background")).save(tmp_path / "b.png")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    corrections = open_corrections(tmp_path, WORDS)
    assert corrections.names() == ["a.png"] and corrections.remarks["listed without an annotation"] == 1


def test_a_label_map_without_colours_has_those_of_voc(tmp_path: Path) -> None:
    assert voc_colours(22)[1:3] + voc_colours(22)[20:] == ((128, 0, 0), (0, 128, 0), (0, 64, 128), (128, 64, 128))
    assert voc_colours(256)[255] == (224, 224, 192)
    (tmp_path / "labelmap.txt").write_text("background:::\ndog\ncat:::\n")
    Image.fromarray(np.array([[[0, 128, 0], [128, 0, 0], [224, 224, 192]]], np.uint8)).save(tmp_path / "a.png")
    assert open_corrections(tmp_path, WORDS).load("a.png").tolist() == [[0, 1, -1]]


def test_camvids_list_of_colours_is_a_label_map(tmp_path: Path) -> None:
    (tmp_path / "label_colors.txt").write_text("0 0 0 background\n1 1 1 dog\n2 2 2 cat\n")
    Image.fromarray(np.array([[2, 1, 0]], np.uint8)).save(tmp_path / "a.png")
    assert open_corrections(tmp_path, WORDS).load("a.png").tolist() == [[0, 1, -1]]


def exported(folder: Path, words: Ontology) -> list[tuple[int, int, int]]:
    """classes.json as labelgen.export writes it; the colours."""
    infos = class_infos(words, words.names)
    fields = {info.name: {"index": i, "colour": "#" + bytes(info.colour).hex()} for i, info in enumerate(infos)}
    (folder / "classes.json").write_text(json.dumps(fields))
    return [info.colour for info in infos]


def test_a_png_that_a_tool_saved_with_its_palette_sorted_keeps_its_classes(tmp_path: Path) -> None:
    colours = exported(tmp_path, WORDS)
    values = np.array([[0, 1, 2, 255]], np.uint8)
    image = Image.frombytes("P", (4, 1), values.tobytes())
    table = np.zeros((256, 3), np.uint8)
    table[:3], table[255] = colours, 255
    image.putpalette(table.tobytes())
    image.save(tmp_path / "as_exported.png")
    image.convert("RGB").save(tmp_path / "colours.png")
    image.convert("RGB").quantize(4).save(tmp_path / "sorted.png")
    assert np.asarray(Image.open(tmp_path / "sorted.png")).tolist() != values.tolist()
    corrections = open_corrections(tmp_path, WORDS)
    for name in corrections.names():
        assert corrections.load(name).tolist() == [[0, 1, 2, -1]], name


def test_a_palette_that_has_none_of_the_colours_is_refused(tmp_path: Path) -> None:
    exported(tmp_path, WORDS)
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([1, 2, 3, 4, 5, 6, 7, 8, 9])
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: class index 0 has colour #010203, which .*classes.json does not have"):
        open_corrections(tmp_path, WORDS).load("a.png")
    image.putpalette([grey for grey in range(256) for _ in range(3)])  # a ramp of greys says nothing
    image.save(tmp_path / "a.png")
    assert open_corrections(tmp_path, WORDS).load("a.png").tolist() == [[0, 1, 2]]


def test_without_a_legend_a_palette_may_not_contradict_the_words(tmp_path: Path) -> None:
    colours = colours_of(3).tolist()
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    ours = [(*colour,) for colour in colours]
    image.putpalette([part for colour in colours for part in colour])
    image.save(tmp_path / "a.png")
    assert open_corrections(tmp_path, WORDS, ours).load("a.png").tolist() == [[0, 1, 2]]
    image.putpalette([part for colour in colours[::-1] for part in colour])
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: value 0 has colour #.*, that of value 2 in labelgen.export's masks"):
        open_corrections(tmp_path, WORDS, ours).load("a.png")
    image.putpalette([part for colour in voc_colours(256) for part in colour])
    image.save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: its palette is Pascal VOC's, where value 0 is background, but line 1"):
        open_corrections(tmp_path, WORDS, ours).load("a.png")
    words = parse_words(["background: wall", "dog", "cat"], "words")
    assert open_corrections(tmp_path, words, ours).load("a.png").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat:1,2\n", "'cat:1,2' is no class; write `name:R,G,B::`"),
        ("cat:1,2,300::\n", "'cat:1,2,300::' is no class"),
        ("# nothing\n", "no class in it"),
        ("cat:1,2,3::\ndog:::\n", "'dog' has no colour, others have one"),
        ("cat:1,2,3::\ndog:1,2,3::\n", r"colour \(1, 2, 3\) is there twice"),
        ("cat:1,2,3::\ncat:4,5,6::\n", "name cat is there twice"),
    ],
)
def test_a_label_map_that_cannot_be_right(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labelmap.txt").write_text(text)
    with pytest.raises(UserError, match=f"labelmap.txt: {message}"):
        find_legend(tmp_path)


def test_two_legends_in_one_place_are_refused(tmp_path: Path) -> None:
    exported(tmp_path, WORDS)
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    with pytest.raises(UserError, match=r"labelmap.txt: and .*classes.json too; take away the one"):
        find_legend(tmp_path)


def test_what_a_label_map_does_not_have_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    legend = find_legend(tmp_path)
    assert legend is not None
    blended = np.array([[COLOURS["cat"], (105, 10, 15)]], np.uint8)
    Image.fromarray(blended).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: .* or the colours of .*labelmap.txt.*does not have #690a0f"):
        by_legend(tmp_path / "a.png", legend)
    Image.fromarray(np.array([[4]], np.uint8)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: class index 4, which .*labelmap.txt does not have"):
        by_legend(tmp_path / "a.png", legend)
    Image.new("RGBA", (2, 2)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="a.png: a mask of mode RGBA"):
        by_legend(tmp_path / "a.png", legend)


def source(root: Path, layout: str, photos: str, masks: str) -> Source:
    config = get_config().photos
    config.update(root=str(root), source=layout, splits={"val": {"photos": photos, "masks": masks}})
    return open_source(config, "val", 3)


@pytest.mark.parametrize(
    "image", [coloured(DRAWN), indexed(DRAWN, LINES), indexed(DRAWN, LINES, palette=False)], ids=["RGB", "P", "L"]
)
@pytest.mark.parametrize("layout", ["voc", "folder"])
def test_truth_is_named_by_the_label_map_beside_it(tmp_path: Path, image: Image.Image, layout: str) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (3, 2)).save(tmp_path / "JPEGImages/a.jpg")
    image.save(tmp_path / "SegmentationClass/a.png")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    (tmp_path / "labelmap.txt").write_text(LABELMAP)
    opened = source(tmp_path, layout, "val" if layout == "voc" else "JPEGImages", "SegmentationClass")
    assert opened.classes == ("person", "background", "dog", "cat")
    label_map = opened.load("a").label_map
    assert label_map is not None and label_map.dtype == np.uint8
    assert np.array(opened.classes)[label_map].tolist() == DRAWN.tolist()


def test_vocs_truth_with_a_sorted_palette_is_refused(tmp_path: Path) -> None:
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (tmp_path / folder).mkdir(parents=True)
    Image.new("RGB", (3, 1)).save(tmp_path / "JPEGImages/a.jpg")
    (tmp_path / "ImageSets/Segmentation/val.txt").write_text("a\n")
    image = Image.frombytes("P", (3, 1), bytes([0, 8, 255]))
    image.putpalette([part for colour in voc_colours(256) for part in colour])
    image.save(tmp_path / "SegmentationClass/a.png")
    opened = source(tmp_path, "voc", "val", "SegmentationClass")
    label_map = opened.load("a").label_map
    assert label_map is not None and label_map.tolist() == [[0, 8, 255]]
    image.convert("RGB").quantize(3).save(tmp_path / "SegmentationClass/a.png")
    with pytest.raises(
        UserError, match=r"a.png: value \d has colour #.*, that of value \d in Pascal VOC: another tool"
    ):
        opened.load("a")


def test_a_folders_truth_with_a_palette_that_contradicts_its_table_is_refused(tmp_path: Path) -> None:
    for folder in ("p", "m"):
        (tmp_path / folder).mkdir()
    Image.new("RGB", (3, 1)).save(tmp_path / "p/a.png")
    colours = exported(tmp_path / "m", WORDS)
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([part for colour in colours[::-1] for part in colour])
    image.save(tmp_path / "m/a.png")
    opened = source(tmp_path, "folder", "p", "m")
    with pytest.raises(UserError, match=r"m/a.png: value 0 has colour #.*, that of value 2 in .*classes.json"):
        opened.load("a")


def by_index(folder: Path, name: str, colours: Sequence[tuple[int, int, int]]) -> None:
    for each in ("p", "m"):
        (folder / each).mkdir(exist_ok=True)
    Image.new("RGB", (3, 1)).save(folder / f"p/{name}.png")
    image = Image.frombytes("P", (3, 1), bytes([0, 1, 2]))
    image.putpalette([part for colour in colours for part in colour])
    image.save(folder / f"m/{name}.png")


def test_a_folders_truth_in_pascal_vocs_palette_wants_a_background_in_line_1(tmp_path: Path) -> None:
    by_index(tmp_path, "a", voc_colours(256))
    config = get_config().photos
    config.update(root=str(tmp_path), splits={"train": {"photos": "p", "masks": "m"}})
    opened = open_source(config, "train", 3, names=("cat", "dog", "person"))
    with pytest.raises(
        UserError, match=r"m/a.png: its palette is Pascal VOC's, .* line 1 of the words is 'cat'; put a"
    ):
        opened.load("a")
    for names in (("background", "cat", "dog"), ("_background_", "cat", "dog"), ()):
        label_map = open_source(config, "train", 3, names=names).load("a").label_map
        assert label_map is not None and label_map.tolist() == [[0, 1, 2]]
    (tmp_path / "m/labelmap.txt").write_text("background:0,0,0::\nperson:128,0,0::\ncat:0,128,0::\n")
    assert open_source(config, "train", 3, names=("cat", "dog", "person")).classes == ("background", "person", "cat")


def test_palettes_of_a_folders_truth_may_not_contradict_each_other(tmp_path: Path) -> None:
    colours = [(9, 9, 9), (200, 0, 0), (0, 0, 200), (0, 0, 0)]
    by_index(tmp_path, "a", [*colours, *[(0, 0, 0)] * 252])  # as tools fill a palette up
    by_index(tmp_path, "b", colours[:3])
    by_index(tmp_path, "c", [(9, 9, 9), (1, 2, 3), (0, 0, 200)])  # a colour that says nothing
    by_index(tmp_path, "d", [colours[0], colours[2], colours[1]])
    opened = source(tmp_path, "folder", "p", "m")
    for name in "abc":
        label_map = opened.load(name).label_map
        assert label_map is not None and label_map.tolist() == [[0, 1, 2]]
    with pytest.raises(UserError, match=r"m/d.png: value 1 has the colour of value 2 in .*m/a.png: another tool"):
        opened.load("d")


def black_and_white(folder: Path, image: Image.Image) -> list[list[int]]:
    for name in ("p", "m"):
        (folder / name).mkdir(exist_ok=True)
    Image.new("RGB", image.size).save(folder / "p/a.png")
    image.save(folder / "m/a.png")
    label_map = source(folder, "black_and_white", "p", "m").load("a").label_map
    assert label_map is not None
    return label_map.tolist()


def paletted(values: list[int], *colours: tuple[int, int, int]) -> Image.Image:
    image = Image.frombytes("P", (len(values), 1), bytes(values))
    image.putpalette([part for colour in colours for part in colour])
    return image


BLACK, WHITE = (0, 0, 0), (255, 255, 255)


@pytest.mark.parametrize(
    ("image", "meant"),
    [
        (paletted([0, 1, 1], BLACK, WHITE), [0, 1, 1]),
        (paletted([0, 1, 1], WHITE, BLACK), [1, 0, 0]),
        (paletted([2, 1, 0], BLACK, (100, 100, 100), (200, 200, 200)), [1, 0, 0]),
        (paletted([0, 200, 255], *((grey, grey, grey) for grey in range(256))), [0, 1, 1]),
        (Image.fromarray(np.array([[BLACK, WHITE]], np.uint8)), [0, 1]),
        (Image.fromarray(np.array([[BLACK, WHITE]], np.uint8)).convert("RGBA"), [0, 1]),
        (Image.fromarray(np.array([[0, 32767, 32768, 65535]], np.uint16)), [0, 0, 1, 1]),
        (Image.fromarray(np.array([[0, 0]], np.uint8)), [0, 0]),
    ],
    ids=["palette", "white first", "soft edge", "ramp", "RGB", "opaque", "16 bits", "all black"],
)
def test_black_and_white_is_what_is_seen(tmp_path: Path, image: Image.Image, meant: list[int]) -> None:
    assert black_and_white(tmp_path, image) == [meant]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.fromarray(np.array([[0, 1, 1]], np.uint8)), "value 1 is neither black nor white; write 255"),
        (Image.fromarray(np.array([[0, 1, 255]], np.uint8)), "value 1 is neither black nor white"),
        (Image.fromarray(np.array([[1, 2, 3]], np.uint8)), "value 3 is neither black nor white"),
        (Image.fromarray(np.array([[0, 255]], np.uint16)), "value 255 is neither black nor white; write 65535"),
        (paletted([0, 1], *voc_colours(2)), "colour #800000 is neither black nor white"),
        (Image.new("RGB", (2, 1), "red"), "colour #ff0000 is neither black nor white"),
    ],
)
def test_values_that_contradict_black_and_white_are_refused(tmp_path: Path, image: Image.Image, message: str) -> None:
    with pytest.raises(UserError, match=f"m/a.png: {message}.*photos.source = folder"):
        black_and_white(tmp_path, image)
