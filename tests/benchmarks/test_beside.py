"""Our figures beside the published ones: cells of docs/peers.md, and means by hand."""

import json
from pathlib import Path

import pytest

from labelgen.core.command import command
from tools import beside

PAGE = """
| protocol | VOC21 |
|---|---|
| not this one | 1 |

| method | VOC21 | VOC20 | source |
|---|---|---|---|
| **B/16** | | | |
| SCLIP | 59.1 | 80.4 | T, M |
| ClearCLIP | | 80.9 | C |
| **L/14** | | | |
| SCLIP | 44.0 | | T |

| method | VOC21 | source |
"""


def run(folder: Path, labels: str, **miou: float) -> str:
    (folder / "eval").mkdir(parents=True)
    readings = {name.replace("_", ", "): {"miou": value} for name, value in miou.items()}
    result = {"protocol": {"labels": labels}, "readings": readings}
    (folder / "eval/val.json").write_text(json.dumps(result))
    return str(folder)


def test_the_rows_of_a_column_are_those_that_have_a_figure():
    assert beside.published(PAGE, "VOC21") == [("SCLIP; B/16 [T, M]", "59.1"), ("SCLIP; L/14 [T]", "44.0")]
    assert beside.published(PAGE, "VOC20") == [("SCLIP; B/16 [T, M]", "80.4"), ("ClearCLIP; B/16 [C]", "80.9")]


@pytest.mark.parametrize("column", sorted(beside.COLUMNS.values()))
def test_the_page_has_every_column(column):
    rows = beside.published(beside.PEERS.read_text(), column)
    assert len(rows) > 15 and all(float(figure) > 0 for _, figure in rows)


def test_seeds_become_one_row_and_columns_stay_apart(tmp_path, capsys):
    runs = [
        run(tmp_path / "a", "voc21", head=0.5, **{"dense CLIP": 0.3, "head_present classes": 0.9}),
        run(tmp_path / "b", "voc21", head=0.6, **{"dense CLIP": 0.3}),
        run(tmp_path / "c", "voc20", head=0.8125),
    ]
    flags = beside.arguments()
    assert command(beside.main, flags, [*runs, f"--out={tmp_path / 't.md'}"]) == 0
    text = (tmp_path / "t.md").read_text()
    assert (
        text.index("| VOC21: method")
        < text.index("| **ours: head** | **55.0 ± 7.1** |")
        < text.index("| VOC20: method")
    )
    assert "| **ours: dense CLIP** | **30.0** |" in text and text.endswith("| **ours: head** | **81.2** |\n")
    assert "present classes" not in text and f"wrote {tmp_path}/t.md" in capsys.readouterr().out


def test_what_cannot_stand_beside_others_is_told(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert command(beside.main, beside.arguments(), [str(tmp_path / "empty")]) == 2
    assert "no figures there; run fmbseg_jax.evaluate with --workdir=" in capsys.readouterr().err
    assert command(beside.main, beside.arguments(), [run(tmp_path / "own", "default", head=0.5)]) == 2
    assert "labels 'default' are of no published protocol; those are voc21, voc20" in capsys.readouterr().err
