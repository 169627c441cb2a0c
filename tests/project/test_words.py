"""The words and class tables of the data sets that ship: they parse, fit together, and follow the official lists."""

import json
from collections.abc import Iterable

import pytest

from labelgen.core.ontology import Ontology, read_words
from tests.worlds.paths import ASSETS, ROOT

EMBEDDED = ASSETS / "text" / "class_names.json"
needs_assets = pytest.mark.skipif(not EMBEDDED.is_file(), reason=f"no {EMBEDDED}; set FMBSEG_ASSETS")

PEOPLE = {"person", "people", "man", "woman", "child"}


def table(name: str) -> dict[int, str]:
    """{value: class name} of labelgen/sources/tables/NAME.txt, read by the format's own definition."""
    text = (ROOT / "labelgen" / "sources" / "tables" / f"{name}.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    pairs = [line.split(": ", 1) for line in lines]
    assert len(pairs) == len({value for value, _ in pairs}), "a value stands twice"
    return {int(value): class_name for value, class_name in pairs}


def words(name: str) -> Ontology:
    return read_words(ROOT / "configs" / "words" / f"{name}.txt")


def words_of(name: str, class_name: str) -> set[str]:
    ontology = words(name)
    index = ontology.names.index(class_name)
    return {word for word, owner in zip(ontology.words, ontology.word_class, strict=True) if owner == index}


def without_background(names: Iterable[str]) -> list[str]:
    return [name for name in names if name != "background"]


TABLES = {
    "voc": range(21),
    "context": range(60),
    "cityscapes": [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33],
    "cityscapes_train_ids": range(19),
    "ade20k": range(1, 151),
    "camvid": range(11),
    # COCO's ids 1 to 182 less one, without the eleven things that were never annotated.
    "coco_stuff_ids": sorted(set(range(182)) - {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}),
    "coco_stuff_train_ids": range(171),
}


def test_every_table_that_ships_is_tested() -> None:
    assert {path.stem for path in (ROOT / "labelgen" / "sources" / "tables").glob("*.txt")} == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_table_has_the_official_values_in_order_and_names_that_words_can_have(name: str) -> None:
    rows = table(name)
    assert list(rows) == list(TABLES[name])
    assert len({class_name.casefold() for class_name in rows.values()}) == len(rows)
    for class_name in rows.values():
        assert class_name == " ".join(class_name.split()) != "" and not set(class_name) & set(":,#")


@pytest.mark.parametrize(
    ("name", "value", "class_name"),
    [
        ("voc", 0, "background"),
        ("voc", 20, "tvmonitor"),
        ("context", 2, "bag"),  # alphabetical: 2 is no bicycle as in VOC's order
        ("context", 37, "person"),
        ("context", 59, "wood"),
        ("cityscapes", 7, "road"),
        ("cityscapes", 26, "car"),
        ("cityscapes", 33, "bicycle"),
        ("cityscapes_train_ids", 13, "car"),
        ("ade20k", 1, "wall"),
        ("ade20k", 13, "person"),
        ("ade20k", 150, "flag"),
        ("camvid", 3, "road"),
        ("camvid", 10, "bicyclist"),
        ("coco_stuff_ids", 12, "stop sign"),  # category 13; 12, street sign, has no annotations
        ("coco_stuff_ids", 91, "banner"),
        ("coco_stuff_ids", 181, "wood"),
        ("coco_stuff_train_ids", 11, "stop sign"),
        ("coco_stuff_train_ids", 80, "banner"),
        ("coco_stuff_train_ids", 170, "wood"),
    ],
)
def test_table_names_a_value_as_the_official_list_does(name: str, value: int, class_name: str) -> None:
    assert table(name)[value] == class_name


def test_context_is_in_the_order_of_the_official_459_names() -> None:
    names = list(table("context").values())
    assert names[0] == "background" and names[1:] == sorted(names[1:])


def test_the_numberings_of_a_data_set_have_the_same_classes_in_the_same_order() -> None:
    assert [*table("cityscapes").values()] == [*table("cityscapes_train_ids").values()]
    stuff = [*table("coco_stuff_train_ids").values()]
    assert [*table("coco_stuff_ids").values()] == stuff


# words file: table, does it have background, number of classes
PROTOCOLS = {
    "voc20": ("voc", False, 20),
    "voc21": ("voc", True, 21),
    "context59": ("context", False, 59),
    "context60": ("context", True, 60),
    "coco_stuff": ("coco_stuff_train_ids", False, 171),
    "cityscapes": ("cityscapes", False, 19),
    "ade20k": ("ade20k", False, 150),
    "camvid": ("camvid", False, 11),
}


@pytest.mark.parametrize("name", PROTOCOLS)
def test_words_name_exactly_the_classes_of_their_table_in_its_order(name: str) -> None:
    source, background, count = PROTOCOLS[name]
    names = list(table(source).values())
    assert list(words(name).names) == (names if background else without_background(names))
    assert len(words(name).names) == count
    assert ("background" in words(name).roles) == background


def test_coco_object_is_background_and_the_eighty_things() -> None:
    things = [*table("coco_stuff_train_ids").values()][:80]
    assert list(words("coco_object").names) == ["background", *things]
    assert "bed" not in words_of("coco_object", "background")  # a background word of VOC, a class here


def test_coco_panoptic_begins_with_the_eighty_things() -> None:
    things = [*table("coco_stuff_train_ids").values()][:80]
    assert len(words("coco_panoptic").names) == 133
    assert list(words("coco_panoptic").names[:80]) == things
    assert sum(name.endswith("-merged") for name in words("coco_panoptic").names) == 17


MERGED = {  # classes of COCO-Stuff that have no class of their own among the 133: where their words went
    "tree-merged": {"bush", "branch", "leaves"},
    "fence-merged": {"railing", "cage"},
    "sky-other-merged": {"clouds", "fog"},
    "cabinet-merged": {"cupboard"},
    "table-merged": {"desk"},
    "mountain-merged": {"hill"},
    "grass-merged": {"moss", "straw"},
    "dirt-merged": {"mud"},
    "paper-merged": {"napkin"},
    "food-other-merged": {"vegetable", "salad"},
    "building-other-merged": {"skyscraper"},
    "rock-merged": {"stone"},
    "rug-merged": {"carpet", "mat"},
}


@pytest.mark.parametrize("merged", MERGED)
def test_a_merged_class_has_the_words_of_what_it_merged(merged: str) -> None:
    assert MERGED[merged] <= words_of("coco_panoptic", merged) & set(words("coco_stuff").words)


def test_voc_and_context_differ_from_their_variants_in_background_only() -> None:
    for small, large in (("voc20", "voc21"), ("context59", "context60")):
        for name in words(small).names:
            assert words_of(small, name) == words_of(large, name)


def test_river_water_is_two_classes_and_no_wet_word_is_background() -> None:
    assert words("river_water").names == ("water", "background")
    assert {"river", "lake", "sea", "flood"} <= words_of("river_water", "water")
    assert {"sky", "tree", "building", "road", "river bank"} <= words_of("river_water", "background")


@pytest.mark.parametrize("name", ["voc21", "context60", "coco_object", "coco_stuff", "coco_panoptic", "ade20k"])
def test_a_person_has_the_same_words_everywhere(name: str) -> None:
    assert words_of(name, "person") == PEOPLE


@pytest.mark.parametrize("name", [*PROTOCOLS, "coco_object", "coco_panoptic", "river_water"])
def test_words_are_readable(name: str) -> None:
    for word in words(name).words:
        assert word == word.lower() and not set(word) & set("-_;/"), word


@pytest.mark.parametrize(
    ("name", "embedded"),
    [
        ("voc", "voc12_background_21.npy"),
        ("ade20k", "ade20k_150.npy"),
        ("cityscapes", "cityscapes_19.npy"),
        ("coco_stuff_train_ids", "coco_stuff_171.npy"),
    ],
)
@needs_assets
def test_tables_agree_with_the_names_of_published_text_embeddings(name: str, embedded: str) -> None:
    assert [*table(name).values()] == json.loads(EMBEDDED.read_text())[embedded]["class_names"]


@needs_assets
def test_voc20_agrees_with_the_names_of_published_text_embeddings() -> None:
    assert list(words("voc20").names) == json.loads(EMBEDDED.read_text())["voc12_20.npy"]["class_names"]


def categories(path: str) -> dict[int, str]:
    """{category id: name} of a COCO json among the assets."""
    found = json.loads((ASSETS / "photos" / path).read_text())["categories"]
    return {category["id"]: category["name"] for category in found}


@needs_assets
def test_coco_tables_and_words_agree_with_the_categories_of_coco_json_files() -> None:
    things = categories("coco/annotations/instances_val2017.json")
    stuff = categories("coco/annotations/stuff_val2017.json")
    assert stuff.pop(183) == "other"
    assert table("coco_stuff_ids") == {key - 1: name for key, name in sorted({**things, **stuff}.items())}
    assert list(words("coco_object").names[1:]) == list(things.values())


@needs_assets
def test_coco_panoptic_words_agree_with_the_official_json() -> None:
    official = categories("coco_panoptic/annotations/panoptic_val2017.json")
    assert list(words("coco_panoptic").names) == list(official.values())
