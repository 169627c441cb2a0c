"""Text as people's editors and other tools write it: with a byte-order mark or without, UTF-16; and what is neither."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.files import read_json, read_text, write_json
from labelgen.core.ontology import read_words
from labelgen.sources.coco import read_annotations

WRITTEN = ["utf-8", "utf-8-sig", "utf-16"]
CONFIG = "from configs.default import get_config as default\n\n\ndef get_config():  # grün\n    return default()\n"
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "é.jpg", "height": 800.0, "width": 600}],
    "categories": [{"id": 1, "name": "Bär"}],
    "annotations": [],
}
READERS: dict[str, tuple[str, Callable[[Path], Any], Callable[[Any], Any], Any]] = {
    "words": ("grün: grün, Gras\n", read_words, lambda words: words.words, ("grün", "Gras")),
    "config": (CONFIG, lambda path: load_config(str(path)), lambda config: config.train.batch_size, 32),
    "json": ('{"größe": 1}', lambda path: read_json(path, "fix"), lambda fields: fields, {"größe": 1}),
    "coco": (
        json.dumps(COCO, ensure_ascii=False),
        read_annotations,
        lambda read: [(p.file_name, p.size_hw) for p in read.pictures.values()],
        [("é.jpg", (800, 600))],
    ),
}


@pytest.mark.parametrize("encoding", WRITTEN)
@pytest.mark.parametrize("kind", READERS)
def test_each_reader_takes_what_says_its_encoding(tmp_path: Path, kind: str, encoding: str) -> None:
    text, read, seen, expected = READERS[kind]
    path = tmp_path / ("config.py" if kind == "config" else "file.json")
    path.write_bytes(text.encode(encoding))
    assert seen(read(path)) == expected


@pytest.mark.parametrize("kind", READERS)
def test_each_reader_says_that_another_encoding_is_the_fault(tmp_path: Path, kind: str) -> None:
    text, read, _, _ = READERS[kind]
    path = tmp_path / ("config.py" if kind == "config" else "file.json")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=rf"{path.name}: not UTF-8 text \(byte \d+\); save it as UTF-8"):
        read(path)


def test_half_a_character_of_utf_16_is_the_same_fault(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfea")
    with pytest.raises(UserError, match=r"a: not UTF-8 text .*; save it as UTF-8"):
        read_text(tmp_path / "a")


def test_what_is_written_is_json_whatever_the_numbers(tmp_path: Path) -> None:
    fields = {"b": [1.5, float("nan")], "a": {"c": float("inf"), "d": (1, "x")}}
    write_json(tmp_path / "a.json", fields)
    read = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert read == {"a": {"c": None, "d": [1, "x"]}, "b": [1.5, None]}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32"])
def test_zero_bytes_are_another_encoding(encoding: str, tmp_path: Path) -> None:
    """What is ASCII is UTF-8 to the eye of a decoder, with a zero byte after each letter."""
    (tmp_path / "words.txt").write_bytes("grass\nsky\n".encode(encoding))
    with pytest.raises(UserError, match=r"words.txt: not UTF-8 text \(zero bytes in it\); save it as UTF-8"):
        read_words(tmp_path / "words.txt")
