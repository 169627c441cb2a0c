"""The README's figures are those of the files, and no others."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from labelgen.core import errors
from labelgen.core.command import command
from tests.worlds.results import write_quality, write_run
from tools import readme

KNOWN: dict[str, Any] = {
    "runs": {
        "commit": "abc", "date": "2026-01-02", "seeds": 2,
        "splits": {"val": {"photos": 9, "classes": 3, "readings": {
            "dense CLIP, naclip": {"miou": [0.25, 0.25], "things": [0.125, 0.125]},
            "dense CLIP, naclip, present classes": {"miou": [0.3, 0.3], "things": [0.2, 0.2]},
            "head": {"miou": [0.4, 0.6], "things": [0.25, 0.75]},
            "oracle": {"miou": [0.8], "things": [0.7]},
        }}},
        "labels": {},
    },
    "claims": {"claims": {
        "b": {"title": "10. Last", "verdict": "holds"},
        "a": {"title": "2. First", "verdict": "undecided"},
    }},
}  # fmt: skip


ON_README = {"setting", "heads", "ratios"}


def test_the_pages_say_what_the_files_say() -> None:
    blocks = {}
    for page in readme.PAGES:
        text = page.read_text(encoding="utf-8")
        assert readme.filled(text, readme.figures(), page.name) == text, "run make readme-figures"
        blocks[page.name] = {found[2] for found in readme.BLOCK.finditer(text)}
    assert blocks["README.md"] == ON_README
    assert blocks["results.md"] == set(readme.BLOCKS) - {"heads", "ratios"}


def test_results_have_no_figure_outside_of_what_is_written_by_the_script() -> None:
    first, rest = (page.read_text(encoding="utf-8") for page in readme.PAGES)
    for results in (first[first.index("## Results") : first.index("## Your photos")], rest):
        typed = readme.BLOCK.sub("", results)
        assert re.findall(r"(?<![\w/])\d*\.\d+", typed) == []


def test_heads_are_mean_and_spread_over_seeds_with_groups() -> None:
    table = readme.heads(KNOWN)
    assert "| | val: mIoU (things) |" in table
    assert "| **head** | .500 ± .141 (.500) |" in table
    assert "| the best of them within the present classes | .300 (.200) |" in table
    assert "| dense CLIP, MaskCLIP | – |" in table and "| oracle | .800 (.700) |" in table
    assert readme.ratios(KNOWN) == "On val: head / best unfiltered dense CLIP: 2.00; head / oracle: 0.62."


def test_blocks_are_written_anew_between_their_marks_alone() -> None:
    text = "a .1\n<!-- figures:verdicts -->\nold\n<!-- end -->\nb\n"
    rows = "| claim | verdict |\n|---|---|\n| 2. First | undecided |\n| 10. Last | holds |"
    assert readme.filled(text, KNOWN, "README.md") == f"a .1\n<!-- figures:verdicts -->\n{rows}\n<!-- end -->\nb\n"
    with pytest.raises(errors.UserError, match="^a.md: no figures are called 'nothing'; there are setting"):
        readme.filled("<!-- figures:nothing -->\n<!-- end -->\n", KNOWN, "a.md")


def test_a_page_that_differs_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, content in (("FIGURES", KNOWN["runs"]), ("CLAIMS", KNOWN["claims"])):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps(content))
        monkeypatch.setattr(readme, name, path)
    plain, page = tmp_path / "README.md", tmp_path / "results.md"
    plain.write_text("no figures\n")
    page.write_text("<!-- figures:ratios -->\n<!-- end -->\n")
    monkeypatch.setattr(readme, "PAGES", (plain, page))
    assert command(readme.main, readme.arguments(), ["--check"]) == 1
    assert capsys.readouterr().out.startswith("results.md differs") and "2.00" not in page.read_text()
    assert command(readme.main, readme.arguments(), []) == 0
    assert "2.00" in page.read_text() and plain.read_text() == "no figures\n"
    assert command(readme.main, readme.arguments(), ["--check"]) == 0


def test_runs_are_collected_with_the_oracle_apart(tmp_path: Path) -> None:
    write_quality(tmp_path / "data")
    runs = [write_run(tmp_path / f"run{i}", head) for i, head in enumerate((0.4, 0.5))]
    runs.append(write_run(tmp_path / "oracle", 0.75, "truth"))
    found = readme.collect(tmp_path / "data", runs)
    readings = found["splits"]["val"]["readings"]
    assert found["seeds"] == 2 and readings["head"]["miou"] == [0.4, 0.5] and readings["oracle"]["miou"] == [0.75]
    assert readings["dense CLIP, b"]["miou"] == [0.3, 0.3]
    assert found["labels"]["train"]["presence"] == {"precision": 0.5, "recall": 0.75}
    assert command(readme.main, readme.arguments(), runs) == 2
