"""Every config that ships: it loads in all its variants, its words parse, and the truth it names fits its words."""

from pathlib import Path

import pytest

from labelgen import configs
from labelgen.core.command import command
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import read_words
from labelgen.labels.scores import lookup
from labelgen.models import sam
from labelgen.models.teachers import needs
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
        ("my_photos:slow", "my_photos:slow: its variants are fast, balanced, best"),
        ("configs/my_photos.py:", "configs/my_photos.py:: its variants are fast, balanced, best"),
    ],
)
def test_another_variant_is_refused(name: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(UserError, match=message):
        load_config(name)


MODELS = ("clip", "sam", "encoder")


def test_without_a_preset_the_models_are_the_defaults() -> None:
    own, default = load_config("my_photos"), load_config("default")
    assert [own[name].to_dict() for name in MODELS] == [default[name].to_dict() for name in MODELS]


def test_presets_are_of_growing_size_and_free_for_any_use(tmp_path: Path) -> None:
    sizes = []
    for preset in ("fast", "balanced", "best"):
        config = load_config(f"my_photos:{preset}", [f"weights_dir={tmp_path}"])
        assert config.sam.weights == sam.RELEASES[config.sam.name].file and config.sam.name.startswith("sam2.1_hiera_")
        assert "_reg4_" in config.encoder.name and config.encoder.size_px % 14 == 0
        needed = needs(config)
        assert [need.role for need in needed] == ["CLIP", "SAM", "encoder"]
        assert {need.file.licence for need in needed} <= {"MIT", "Apache-2.0"}
        sizes.append([need.file.parameters() or 0 for need in needed])
    assert all(a <= b <= c for a, b, c in zip(*sizes, strict=True)) and len({sum(each) for each in sizes}) == 3


def test_dinov3_is_an_encoder_but_in_no_preset_for_its_licence(tmp_path: Path) -> None:
    name = "vit_small_patch16_dinov3.lvd1689m"
    config = load_config("my_photos:fast", [f"weights_dir={tmp_path}", f"encoder.name={name}"])
    encoder = needs(config)[2]
    assert encoder.file.licence == "dinov3-license" and encoder.file.source.startswith("https://huggingface.co/timm/")


def test_the_variants_are_listed_and_a_file_is_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(configs.main, configs.arguments(), []) == 0
    lines = capsys.readouterr().out.splitlines()
    assert next(line for line in lines if line.startswith("my_photos ")).endswith("[:fast, :balanced, :best]")
    assert "[" not in next(line for line in lines if line.startswith("pocket "))
    assert command(configs.main, configs.arguments(), ["my_photos:fast"]) == 2
    assert "print my_photos, say --config=FILE:fast" in capsys.readouterr().err
