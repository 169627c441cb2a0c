"""Every config that ships: it loads in all its variants, its words parse, and the truth it names fits its words."""

from pathlib import Path

import pytest

from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import read_words
from labelgen.labels.scores import lookup
from labelgen.sources.folders import read_table
from tests.worlds.paths import ROOT

TABLES = {
    "voc": "voc", "context": "context", "cityscapes": "cityscapes", "ade20k": "ade20k", "camvid": "camvid",
    "coco_stuff": "coco_stuff_ids",
}  # fmt: skip


def variants() -> list[str]:
    """FILE or FILE:VARIANT of every config."""
    found = []
    for path in sorted((ROOT / "configs").glob("*.py")):
        scope: dict = {"__name__": path.stem}
        exec(compile(path.read_text(), str(path), "exec"), scope)
        found += [f"configs/{path.name}", *(f"configs/{path.name}:{name}" for name in scope.get("VARIANTS", ()))]
    return found


VARIANTS = variants()


def test_there_is_a_config_for_every_data_set() -> None:
    names = {Path(v.partition(":")[0]).stem for v in VARIANTS}
    assert names == {
        "default", "pocket", "my_photos", "voc", "context", "coco_object", "coco_stuff", "coco_panoptic", "cityscapes",
        "ade20k", "camvid", "river_water",
    }  # fmt: skip


@pytest.mark.parametrize("name", VARIANTS)
def test_it_loads_and_is_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(name)
    doc = (ROOT / name.partition(":")[0]).read_text().split('"""')[1]
    if "default" in name:
        return
    assert "python -m labelgen.run" in doc and "xpected time and score" in doc
    assert read_words(config.ontology).names
    splits = set(config.photos.splits)
    assert {config.train.split, *config.labels.splits, *config.eval.splits} <= splits
    assert all(config.photos.splits[split].masks for split in config.eval.splits)
    if name not in ("configs/pocket.py", "configs/my_photos.py"):
        assert "ot measured" in doc


@pytest.mark.parametrize("name", [v for v in VARIANTS if v.partition(":")[0][8:-3] in TABLES])
def test_every_class_of_the_truth_has_its_place_among_the_words(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config(name)
    classes, names = read_table(TABLES[name.partition(":")[0][8:-3]]).values(), read_words(config.ontology).names
    place = lookup(list(classes), names, config.eval.truth)
    assert sorted(set(place[:-1]) - {-1}) == list(range(len(names)))
    assert (place[:-1] == -1).sum() == len(config.eval.truth)


def test_voc_without_background_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = load_config("configs/voc.py:voc20")
    assert len(read_words(config.ontology).names) == 20 and config.labels.name == "voc20"
    assert load_config("configs/voc.py").photos == config.photos, "both readings share one DATA"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("configs/voc.py:voc22", "configs/voc.py:voc22: its variants are voc21, voc20"),
        ("configs/ade20k.py:x", "configs/ade20k.py:x: has no variants"),
    ],
)
def test_another_variant_is_refused(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        load_config(name)
