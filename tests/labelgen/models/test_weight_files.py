import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from labelgen.core.errors import UserError
from labelgen.models import weight_files
from labelgen.models.weight_files import WeightFile, find


@dataclass(frozen=True, kw_only=True)
class FetchedFile(WeightFile):
    """What a download brings, or how it ends."""

    brought: Path | Exception

    def fetch(self) -> Path:
        if isinstance(self.brought, Exception):
            raise self.brought
        return self.brought


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"abc")
    return tmp_path


def test_the_first_name_that_is_there_is_found_and_its_digest_checked(folder):
    digest = hashlib.sha256(b"abc").hexdigest()
    assert find(WeightFile(folder, ["no.bin", "a.bin"], digest)) == folder / "a.bin"
    assert weight_files.digest(folder / "a.bin") == digest


def test_another_digest_names_the_file_and_both_digests(folder):
    with pytest.raises(UserError, match=r"a\.bin: sha256 is ba7816bf.*, but 00ff is wanted"):
        find(WeightFile(folder, ["a.bin"], "00ff"))


def test_what_cannot_be_fetched_says_what_to_get_from_where_and_what_to_name_it(folder):
    offline = ConnectionError("no route to host\nlong story")
    message = (
        r"sam\.pth: no such weight file.*ConnectionError: no route to host\); download it from https://x/y and save"
    )
    with pytest.raises(UserError, match=message) as caught:
        find(FetchedFile(folder, ["sam.pth"], source="https://x/y", brought=offline))
    assert "long story" not in str(caught.value) and str(folder / "sam.pth") in str(caught.value)


def test_what_is_fetched_is_used_and_checked(folder):
    assert find(FetchedFile(folder, ["b.bin"], brought=folder / "a.bin")) == folder / "a.bin"
    with pytest.raises(UserError, match="sha256"):
        find(FetchedFile(folder, ["b.bin"], "00ff", brought=folder / "a.bin"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ('{"a": 1}', "has no 'b'; is it the config of another model"),
        (None, "no such model config"),
    ],
)
def test_a_bad_model_config_is_named(folder, text, message):
    if text is not None:
        (folder / "m.json").write_text(text)
    with pytest.raises(UserError, match=rf"m\.json: {message}"):
        weight_files.read_config(folder, "m.json", ("a", "b"))
    (folder / "m.json").write_text(json.dumps({"a": 1, "b": 2}))
    assert weight_files.read_config(folder, "m.json", ("a", "b")) == {"a": 1, "b": 2}


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_a_state_fills_its_model_and_no_other(tmp_path, suffix):
    path = tmp_path / f"w.{suffix}"
    source = torch.nn.Linear(3, 2)
    (save_file if suffix == "safetensors" else torch.save)(source.state_dict(), path)
    target = torch.nn.Linear(3, 2)
    weight_files.load_state(target, path, "linear")
    assert torch.equal(target.weight, source.weight)
    with pytest.raises(UserError, match="weights of another model than wide.*size mismatch for weight"):
        weight_files.load_state(torch.nn.Linear(4, 2), path, "wide")
    with pytest.raises(UserError, match="weights of another model than net.*Missing key"):
        weight_files.load_state(torch.nn.Sequential(torch.nn.Linear(3, 2)), path, "net")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 40, None])
def test_a_damaged_file_is_named(tmp_path, suffix, content):
    path = tmp_path / f"w.{suffix}"
    if content is None:  # torn off in the middle
        (save_file if suffix == "safetensors" else torch.save)(torch.nn.Linear(30, 20).state_dict(), path)
        content = path.read_bytes()[:1000]
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"w\.{suffix}: "):
        weight_files.load_state(torch.nn.Linear(30, 20), path, "linear")
