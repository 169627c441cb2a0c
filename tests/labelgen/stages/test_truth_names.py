"""Class indices of masks have names from the encoding on: whatever words come later, truth is read by name."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from labelgen import quality
from labelgen.core.command import command
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset
from labelgen.labels.scores import TruthReader
from tests.worlds.labelgen_run import run

WORDS = ["sky", "grass", "ball"]


def mask(world: Path, photo: str) -> np.ndarray:
    return np.array(Image.open(world / f"masks/train/{photo}.png"))


def truth(data: Path, names: list[str]) -> dict[str, np.ndarray]:
    reader = TruthReader(Dataset.open(data), "train", names, {})
    return {reader[i].photo_id: reader[i].label_map for i in range(len(reader))}


def measured(world: Path, data: Path, *more: str) -> int:
    arguments = [f"--config={world}/config.py", f"--data={data}", "--config.labels.splits=train", *more]
    return command(quality.main, quality.arguments(), arguments)


def own(world: Path, folder: Path) -> Path:
    """The world, to be changed."""
    mine = Path(shutil.copytree(world, folder / "mine", ignore=shutil.ignore_patterns("whole")))
    text = (mine / "config.py").read_text().replace(str(world), str(mine))
    (mine / "config.py").write_text(text)
    return mine


def nameless(data: Path) -> None:
    """As DATA was before it kept the names."""
    for file, fields in (
        (data / name, json.loads((data / name).read_text())) for name in ("config.json", "dataset.json")
    ):
        for split in (fields.get("photos") or fields["splits"]).values():
            split["truth_classes"] = None
        file.write_text(json.dumps(fields))


def test_words_in_another_order_find_the_same_truth(world: Path, copy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("ball\nsky\nmeadow\ngrass\n")
    more = [f"--config.ontology={other}", "--config.labels.name=other", "--config.labels.splits=train"]
    before = (copy / "dataset.json").read_bytes()
    assert run(world, copy, *more) == 0 and (copy / "dataset.json").read_bytes() == before
    assert (
        Dataset.open(copy).truth_classes("train") == tuple(WORDS) and Dataset.open(copy).truth_classes("wild") is None
    )
    found = truth(copy, ["ball", "sky", "meadow", "grass"])
    assert len(found) == 10
    for photo, label_map in found.items():
        assert np.array_equal(label_map, np.array([1, 3, 0])[mask(world, photo)])


def test_a_class_that_later_words_lack_is_refused(world: Path, copy: Path, tmp_path: Path, capsys: Any) -> None:
    other = tmp_path / "other.txt"
    other.write_text("sky\nball\ncloud\nhouse\n")
    more = [f"--config.ontology={other}", "--config.labels.name=other", "--config.labels.splits=train"]
    assert run(world, copy, *more) == 0
    assert measured(world, copy, *more) == 2
    assert "the truth has classes that the words lack: grass; add them to the file of words" in capsys.readouterr().err


def test_truth_encoded_without_words_is_named_by_the_first(world: Path, tmp_path: Path, capsys: Any) -> None:
    data, other = tmp_path / "data", tmp_path / "other.txt"
    assert run(world, data, "--stage=encode", "--config.ontology=") == 0
    assert "truth of train is numbers, which the first words to label it name" in capsys.readouterr().out
    assert run(world, data, "--stage=label") == 0
    assert "truth of train is in these classes from now on" in capsys.readouterr().out
    other.write_text("ball\nsky\nmeadow\ngrass\n")
    assert run(world, data, f"--config.ontology={other}", "--config.labels.name=other") == 0
    assert "from now on" not in capsys.readouterr().out
    assert Dataset.open(data).truth_classes("train") == tuple(WORDS)


def test_a_table_beside_the_masks_names_them(world: Path, tmp_path: Path, capsys: Any) -> None:
    mine = own(world, tmp_path)
    table = {"ball": {"index": 0}, "sky": {"index": 1}, "grass": {"index": 2}}
    (mine / "masks/classes.json").write_text(json.dumps(table))
    assert run(mine, tmp_path / "data") == 0
    assert Dataset.open(tmp_path / "data").truth_classes("train") == ("ball", "sky", "grass")
    for photo, label_map in truth(tmp_path / "data", WORDS).items():
        assert np.array_equal(label_map, np.array([2, 0, 1])[mask(mine, photo)])
    (mine / "masks/train/classes.json").write_text(json.dumps(table | {"tree": {"index": 1}}))
    assert run(mine, tmp_path / "other") == 2
    assert "masks/train/classes.json: index 1 is there twice; export the labels again" in capsys.readouterr().err
    (mine / "masks/train/classes.json").write_text(json.dumps({"sky": {"index": 1}, "grass": {"index": 2}}))
    assert run(mine, tmp_path / "other") == 2
    assert "value 0 stands for no class of" in capsys.readouterr().err


def test_data_from_before_is_read_by_number_and_it_is_said(
    world: Path, copy: Path, tmp_path: Path, capsys: Any
) -> None:
    nameless(copy)
    assert run(world, copy) == 0  # nothing is refused, and nothing is named afterwards
    assert Dataset.open(copy).truth_classes("train") is None
    two = tmp_path / "two.txt"
    two.write_text("sky\ngrass: grass, lawn\nhouse\n")
    assert run(world, copy, f"--config.ontology={two}", "--config.labels.name=two", "--config.labels.splits=train") == 0
    capsys.readouterr()
    assert measured(world, copy, "--config.labels.name=two") == 0
    said = "DATA is from before it kept the names of truth's classes: taken for lines of these words"
    assert capsys.readouterr().out.count(said) == 1
    assert json.loads((copy / "labels/two/quality.json").read_text())["train"]["truth"] == said
    reader = TruthReader(Dataset.open(copy), "train", ["sky", "grass"], {})
    dropped = sum((mask(world, reader[i].photo_id) == 2).sum() for i in range(len(reader)))
    assert reader.said() == f"{said}; {dropped} pixels of classes beyond them left out" and dropped > 0


def test_data_begun_keeps_its_names_and_takes_new_ones_at_the_end(world: Path, tmp_path: Path, capsys: Any) -> None:
    mine, data = own(world, tmp_path), tmp_path / "data"
    wrong = mask(mine, "011")
    wrong[0, 0] = 3
    Image.fromarray(wrong).save(mine / "masks/train/011.png")
    assert run(mine, data, "--stage=encode") == 2
    assert "class index 3, but there are 3 classes" in capsys.readouterr().err
    for words, code in (("ball\nsky\ngrass\nhouse\n", 2), ("sky\ngrass\nball\nhouse\n", 0)):
        (mine / "words.txt").write_text(words)
        assert run(mine, data, "--stage=encode") == code
    assert Dataset.open(data).truth_classes("train") == (*WORDS, "house")
    assert truth(data, ["house", *WORDS])["011"][0, 0] == 0


def test_a_value_without_a_name_in_data_is_refused(copy: Path) -> None:
    fields = json.loads((copy / "dataset.json").read_text())
    fields["splits"]["train"]["truth_classes"] = ["sky", "grass"]
    (copy / "dataset.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="truth of 000: has class 2, but DATA names 2; encode into a new DATA"):
        truth(copy, ["sky", "grass"])
