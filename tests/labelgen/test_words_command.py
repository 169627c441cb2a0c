"""`labelgen.words` on the pocket models and a DATA by hand: what a person reads before encoding anything."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from labelgen import words
from labelgen.core.command import command
from labelgen.core.files import write_json
from labelgen.core.ontology import parse_words
from tests.worlds import labelling, tiny
from tests.worlds.paths import ROOT

POCKET = f"--config={ROOT / 'configs/pocket.py'}"
LIST = """grass: grass, lawn
ball: ball, crate
box
lake: lake
water: water, La-Ke
background: sky, meadow, a very long name of something that no photo has ever shown
"""


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.fixture(name="ontology")
def ontology_fixture(tmp_path: Path) -> str:
    (tmp_path / "words.txt").write_text(LIST)
    return f"--config.ontology={tmp_path / 'words.txt'}"


def run(*arguments: str) -> int:
    return command(words.main, words.arguments(), list(arguments))


def sections(out: str) -> dict[str, list[str]]:
    """First words of each finding -> its lines."""
    blocks = [block.splitlines() for block in out.split("\n\n")[2:]]
    return {block[0][:22]: [line.strip() for line in block[1:]] for block in blocks if block[0].endswith(":")}


def test_the_pocket_tower_says_what_is_wrong_with_a_list(ontology: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(POCKET, ontology) == 0
    out = capsys.readouterr().out
    assert out.startswith("6 classes, 11 words. Cosines between words of different classes: median .")
    found = sections(out)
    assert any(line.startswith("'crate' (ball) and 'box' (box) ") for line in found["so alike that they wil"])
    assert any(line.startswith("'crate' (ball): 'box' (box) ") for line in found["nearer to another clas"])
    assert any(
        line.startswith("'meadow' (background): 'lawn' (grass)")
        or line.startswith("'meadow' (background): 'grass' (grass)")
        for line in found["background words neare"]
    )
    assert found["the same but for spell"] == ["'lake' (lake) and 'La-Ke' (water)"]
    assert [line.split(":")[0] for line in found["longer than the text t"]] == [f"'{LIST.splitlines()[-1][25:]}'"]
    assert "'La-Ke': 'La-Ke' is 4 pieces" in found["no words of the tower'"]
    last = out.splitlines()[-1]
    assert "things to look at. next: edit the words and look again, then python -m labelgen.run" in last


def test_other_templates_say_what_they_change(ontology: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(POCKET, ontology) == 0
    usual = capsys.readouterr().out
    assert "By labels.templates" not in usual
    assert run(POCKET, ontology, "--config.labels.templates=imagenet") == 0
    out = capsys.readouterr().out
    said = next(block for block in out.split("\n\n") if block.startswith("By labels.templates = 'imagenet' for those"))
    medians = re.search(r"different classes: median (\S+) -> (\S+), spread", said)
    assert medians and usual.split("median ")[1].startswith(f"{medians[1]},")
    assert medians[2] != medians[1] and out.split("median ")[1].startswith(f"{medians[2]},")
    assert re.search(r"a cosine of \.\d\d \(median\) with itself, least '.+' \.\d\d\.", said)
    assert "pairs so alike: " in said and "\nNearest to another class: " in said
    # the pocket tower reads few tokens: most of the 80 are longer than its own three
    assert len(sections(out)["longer than the text t"]) >= len(sections(usual)["longer than the text t"])


def test_a_plain_list_has_nothing_that_stands_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "words.txt").write_text("grass\nwater\nball\n")
    assert run(POCKET, f"--config.ontology={tmp_path}/words.txt") == 0
    out = capsys.readouterr().out.splitlines()
    assert [line.split() for line in out[2:6]] == [
        ["class", "words", "nearest", "classes"],
        ["grass", "1", "grass", "water", ".38,", "ball", ".29"],
        ["water", "1", "water", "grass", ".38,", "ball", ".26"],
        ["ball", "1", "ball", "grass", ".29,", "water", ".26"],
    ]
    same = f"{POCKET} --config.ontology={tmp_path}/words.txt"
    assert out[-1].endswith(f"nothing stands out. next: python -m labelgen.run {same} --out=DATA --limit=20")


def test_marks_of_other_kinds_of_lists_are_questioned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    marked = ["- grass", "2. water", '"ball"', "wood | sky", "sand. brick", "star."]
    (tmp_path / "words.txt").write_text("\n".join([*marked, "st. bernard", "t-shirt", "7up"]))
    assert run(POCKET, f"--config.ontology={tmp_path}/words.txt") == 0
    assert sections(capsys.readouterr().out)["with the marks of anot"] == [f"{word!r} ({word})" for word in marked]


@pytest.fixture(name="data")
def data_fixture(tmp_path: Path) -> list[str]:
    """Arguments for the hand-made DATA, whose words come with their embeddings."""
    data = tiny.write_data(tmp_path / "data")
    np.save(tmp_path / "words.npy", labelling.PROTOTYPES)
    owners = list(zip(labelling.ONTOLOGY.words, labelling.ONTOLOGY.word_class, strict=True))
    lines = [
        f"{name}: {', '.join(word for word, owner in owners if owner == index)}"
        for index, name in enumerate(labelling.ONTOLOGY.names)
    ]
    (tmp_path / "words.txt").write_text("\n".join(lines))
    assert parse_words(lines, "w") == labelling.ONTOLOGY
    return [
        f"--config={ROOT / 'configs/default.py'}",
        f"--config.ontology={tmp_path}/words.txt",
        f"--config.labels.text_embeddings={tmp_path}/words.npy",
        "--config.labels.splits=eval",
        f"--data={data}",
    ]


def test_data_says_how_often_each_class_is_found(data: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*data) == 0
    out = capsys.readouterr().out
    shows = [np.unique(tiny.classes_of(photo)) for photo in range(5)]
    wanted = [f"{np.mean([c in shown for shown in shows]):.0%}" for c in range(3)]
    assert [line.split()[-2] for line in out.splitlines()[4:7]] == wanted
    assert "Found in 5 photos" in out
    assert out.splitlines()[-1].endswith("--stage=label --config.labels.name=NEW")
    assert run(*data, "--limit=1") == 0
    assert "Found in 1 photos" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--config.ontology=", "ontology is not set; set it to your file of words"),
        ("--config.ontology=gone.txt", "gone.txt: no such file of words"),
        (
            "--config.labels.templates=a photo",
            "labels.templates = ('a photo',); wanted is patterns with {} for the word",
        ),
        ("--config.labels.text_embeddings=gone.npy", "gone.npy: no such file of text embeddings"),
        ("--config.labels.splits=test", "has none of labels.splits = test"),
        ("--data=gone", "gone/dataset.json: missing; DATA is not complete"),
    ],
)
def test_errors_say_the_fix(data: list[str], more: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*data, more) == 2
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1 and error[0].startswith("error: ") and message in error[0]


def test_embeddings_of_a_width_are_checked_against_data(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.save(tmp_path / "words.npy", np.ones((len(labelling.ONTOLOGY.words), 9), np.float32))
    assert run(*data) == 2
    assert f"floats [{len(labelling.ONTOLOGY.words)}, 5] are wanted" in capsys.readouterr().err
    assert run(*data[:-1]) == 0


def test_data_of_another_clip_is_refused(data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info = json.loads((tmp_path / "data/dataset.json").read_text())
    info["encoders"]["clip"] = {"sha256": "0"}
    write_json(tmp_path / "data/dataset.json", info)
    assert run(POCKET, data[1], data[-1]) == 2
    assert "pocket/weights/clip.safetensors: is not the CLIP that encoded" in capsys.readouterr().err
