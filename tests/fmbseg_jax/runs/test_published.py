"""A RUN as a folder for a hub: the same masks from it, by huggingface_hub's own client; nothing that is run is read."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from safetensors.numpy import load_file, save_file

from fmbseg_jax import export
from fmbseg_jax.inference.embedder import Teacher
from fmbseg_jax.inference.segmenter import Segmenter
from fmbseg_jax.reporting.model_card import card
from fmbseg_jax.runs.checkpoint import restore_run
from fmbseg_jax.runs.published import dotted, is_published, tree, without_paths
from fmbseg_jax.runs.run_folder import open_run
from labelgen.core.command import command
from labelgen.core.errors import UserError
from labelgen.core.files import write_json
from tests.worlds import tiny_models, tiny_run
from tests.worlds.file_server import FileServer, serving
from tests.worlds.page import example
from tests.worlds.paths import ROOT
from tests.worlds.tiny_run import picture

NAME = "someone/ball-and-box"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module")
def run(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), weights)


@pytest.fixture(scope="module")
def hub(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of repositories, with the exported RUN and what must not be read beside it."""
    root = tmp_path_factory.mktemp("hub")
    assert exported(f"--workdir={run}", f"--out={root / NAME}") == 0
    for name in ("pytorch_model.bin", "evil.pkl", "compiled/step", "modeling.py"):
        (root / NAME / name).parent.mkdir(exist_ok=True)
        (root / NAME / name).write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    return root


def exported(*arguments: str) -> int:
    return command(export.main, export.arguments(), [*arguments, "--to=hub-folder"])


@pytest.fixture
def server(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileServer]:
    """The hub's interface on loopback, asked by the real client, whose cache is empty."""
    from huggingface_hub import constants

    with serving(hub) as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def test_the_same_masks_from_the_hub(run: Path, weights: Path, server: FileServer) -> None:
    found, wanted = Segmenter.restore(f"hf://{NAME}", weights_dir=weights), Segmenter.restore(run)
    image = picture(40, 53)
    assert found.names == wanted.names and found.step == wanted.step == 7
    for words in (None, ["lid: ll", "box"]):
        a, b = found(image, words), wanted(image, words)
        assert np.array_equal(a.label_map, b.label_map) and np.array_equal(a.similarity, b.similarity)
        assert a.scores == b.scores


def test_nothing_but_the_json_and_the_arrays_is_asked_for(server: FileServer) -> None:
    restore_run(f"hf://{NAME}@main/")
    assert {path.partition("/resolve/main/")[2] for path, _ in server.asked} == {"run.json", "head.safetensors"}


def test_a_folder_here_and_in_a_repository(run: Path, hub: Path, server: FileServer) -> None:
    shutil.copytree(hub / NAME, hub / "someone/many/first", dirs_exist_ok=True)
    wanted = dict(dotted(restore_run(run).params))
    for place in (hub / NAME, str(hub / NAME), "hf://someone/many/first"):
        found = dict(dotted(restore_run(place).params))
        assert found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_the_real_client_in_a_process_of_its_own(weights: Path, server: FileServer, tmp_path: Path) -> None:
    """As people have it: HF_ENDPOINT, and `predict` as it is typed."""
    (tmp_path / "photos").mkdir()
    picture(30, 40).save(tmp_path / "photos/a.png")
    environment = {
        "HF_ENDPOINT": server.url,
        "HF_HOME": str(tmp_path / "home"),
        "PATH": "/usr/bin:/bin",
        "JAX_PLATFORMS": "cpu",
    }
    told = [sys.executable, "-m", "fmbseg_jax.predict", f"--workdir=hf://{NAME}", f"--weights_dir={weights}"]
    told += [f"--photos={tmp_path}/photos", f"--out={tmp_path}/masks"]
    done = subprocess.run(told, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "masks/masks/a.png").is_file() and (tmp_path / "home/hub").is_dir()


def test_the_line_of_the_page(weights: Path, server: FileServer) -> None:
    names: dict[str, Any] = {}
    exec(example("tools.md", "hf://OWNER/NAME").replace("OWNER/NAME", NAME, 1), names)
    assert names["segmenter"].names == ("ball", "box")


def test_the_dense_map_goes_with_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dense = np.random.default_rng(0).normal(size=(33, 24)).astype(np.float32)
    with_dense = replace(restore_run(run), dense_map=dense)
    monkeypatch.setattr(export, "restore_run", lambda *given: with_dense)
    assert exported(f"--workdir={run}", f"--out={tmp_path / 'out'}") == 0
    assert np.array_equal(restore_run(tmp_path / "out").dense_map, dense)


def test_the_lines_of_the_docs_read_it_without_our_code(run: Path, hub: Path, tmp_path: Path) -> None:
    lines = example("export.md", "np.maximum.reduceat")
    folder = shutil.copytree(hub / NAME, tmp_path / "folder")
    segmenter, image = Segmenter.restore(run), np.asarray(picture(70, 45, 6))
    from labelgen.sources.photos import Photo

    row = segmenter._towers.features(Photo("", image))
    h, w = row.grid_hw
    np.savez(folder / "photo.npz", features=row.features[:h, :w].astype(np.float32), size_hw=image.shape[:2])
    script = f"{lines}\nimport sys\nassert 'jax' not in sys.modules\nnp.save('label_map.npy', label_map)"
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.array_equal(np.load(folder / "label_map.npy"), segmenter(image).label_map)


def test_no_path_of_this_machine_goes_out(run: Path, weights: Path, hub: Path) -> None:
    assert str(weights) in json.dumps(restore_run(run).config.to_dict())
    for name in ("run.json", "head.json", "README.md"):
        text = (hub / NAME / name).read_text()
        assert str(weights) not in text and str(run) not in text and "/tmp" not in text
    config = {
        "photos": {"root": "p", "splits": {"a": {"photos": "b"}}, "source": "folder"},
        "x": "/a",
        "y": "s3://b",
        "z": 1,
    }
    assert without_paths(config) == {
        "photos": {"root": "", "splits": {}, "source": "folder"}, "x": "", "y": "", "z": 1, "weights_dir": "weights",
    }  # fmt: skip


def test_paths_that_a_stranger_wrote_are_not_taken(hub: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hub / NAME, tmp_path / "folder")
    about = json.loads((folder / "run.json").read_text())
    about["config"] |= {"weights_dir": "/etc", "compile_cache": "/tmp/evil"}
    about["config"]["photos"]["root"] = "/home"
    write_json(folder / "run.json", about)
    config = restore_run(folder).config
    assert (config.weights_dir, config.compile_cache, config.photos.root) == ("weights", "", "")


def test_the_card_is_one_of_the_hubs(hub: Path) -> None:
    read = ModelCard.load(hub / NAME / "README.md")
    assert read.data.library_name == "fmbseg-jax" and read.data.pipeline_tag == "image-segmentation"
    assert "| 1 | box | box, crate |" in read.text and "Not measured against truth." in read.text
    assert "labels that frozen models made of photos and words" in read.text


def test_the_card_has_figures_and_licences(run: Path, tmp_path: Path) -> None:
    readings = {"dense CLIP, maskclip": {"miou": 0.31}, "dense CLIP, naclip": {"miou": 0.2}, "head": {"miou": 0.456}}
    protocol = {
        "split": "val",
        "photos": 9,
        "use": "unseen photos",
        "words": "those of the training",
        "background": "none",
    }
    known = [Teacher("CLIP", "ViT-B-16 openai", "MIT", "https://a", "1" * 64), Teacher("SAM", "x|y", "", "", "")]
    text = card(restore_run(run), known, [{"readings": readings, "protocol": protocol}])
    row = "| val | 9 | 0.456 | 0.310 | unseen photos; those of the training; background: none |"
    assert row in text and "| CLIP | ViT-B-16 openai | MIT | https://a | 1111111111111111 |" in text
    assert r"| SAM | x\|y | not known: look it up | not known | not needed |" in text


def test_what_is_not_known_is_said(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exported(f"--workdir={run}", f"--out={tmp_path}") == 0
    out, err = capsys.readouterr()
    assert f"README.md: no figures, as {run} has no eval/" in err and "README.md: the licence of " in err
    assert f"next: add a licence of your choice to README.md, then hf upload OWNER/NAME {tmp_path}" in out


def test_names_become_a_tree_again() -> None:
    params = {"a": {"b": np.ones(1), "c": {"d": np.zeros(2)}}, "e": np.ones(3)}
    named = dict(dotted(params))
    assert list(named) == ["a.b", "a.c.d", "e"] and tree(named) == params


def test_what_is_published() -> None:
    assert is_published("hf://a/b") and not is_published("s3://a/b") and not is_published("nowhere")


def test_a_run_is_still_a_run(run: Path, hub: Path) -> None:
    assert is_published(hub / NAME) and not is_published(run)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("hf://nowhere", "not hf://OWNER/NAME, hf://OWNER/NAME@REVISION or"),
        ("hf://someone/other", "no run.json and head.safetensors there"),
        (f"hf://{NAME}/deeper", "no run.json and head.safetensors there"),
    ],
)
def test_places_that_are_none(url: str, message: str, server: FileServer) -> None:
    with pytest.raises(UserError, match=message):
        restore_run(url)


def spoil_format(folder: Path) -> None:
    write_json(folder / "run.json", json.loads((folder / "run.json").read_text()) | {"format": 9})


def spoil_arrays(folder: Path) -> None:
    arrays = load_file(folder / "head.safetensors")
    save_file({name: array + 1 for name, array in arrays.items()}, folder / "head.safetensors")


def spoil_head(folder: Path) -> None:
    about = json.loads((folder / "run.json").read_text())
    about["config"]["head"]["hidden"] = 8
    write_json(folder / "run.json", about)


def spoil_missing(folder: Path) -> None:
    (folder / "head.safetensors").unlink()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_format, "run.json has format 9, this version reads 1"),
        (spoil_arrays, "head.safetensors is not the file that run.json was written with"),
        (spoil_head, r"has parameters \{'project.*but its settings are of a head with \{'hidden.bias'"),
        (spoil_missing, "has no head.safetensors; write it again"),
    ],
)
def test_what_does_not_belong_together(spoil: Any, message: str, hub: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hub / NAME, tmp_path / "folder")
    spoil(folder)
    with pytest.raises(UserError, match=message):
        restore_run(folder)


def test_it_is_read_only() -> None:
    with pytest.raises(UserError, match=f"hf://{NAME}: is read only; train and evaluate in a RUN of your own"):
        open_run(f"hf://{NAME}")
