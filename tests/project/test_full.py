"""launch/voc.sh and launch/photos.sh: in which order, what is done again, and the whole way against a local server.

The scripts run with a Python that only writes down what it is asked; what it was asked is then run here, with
archives and weights of the official layouts served on loopback: a small CLIP under a tag on a hub, the smallest DINOv2
on the same hub, a small SAM among the releases.
"""

import hashlib
import importlib
import os
import shlex
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from labelgen.core import download
from labelgen.core.command import command
from labelgen.models import sam
from labelgen.models.libraries import open_clip, sam_model_registry, timm
from tests.worlds import tiny_models
from tests.worlds.file_server import serving
from tests.worlds.paths import ROOT
from tests.worlds.voc_archives import voc_files, write_tar

SMALL = [
    "device=cpu", "clip.name=tiny-ViT", "clip.pretrained=random", "clip.short_side_px=48", "clip.window_px=32",
    "clip.stride_px=16", "clip.crop_scales=1", "sam.name=tiny", "sam.weights=tiny.pth", "sam.points_per_side=2",
    "sam.pred_iou_threshold=0.15", "sam.stability_threshold=0.6", "encoder.name=vit_small_patch14_dinov2.lvd142m",
    "encoder.size_px=42", "labels.templates={}", "train.steps=2", "train.warmup_steps=1", "train.batch_size=4",
    "train.virtual_shards=4", "train.holdout=0.01",
]  # fmt: skip
CLAIMS = "labels,stages,alignment,own_photos"
"""Of the real module; tests/benchmarks/test_claims_voc.py has all of them."""


@pytest.fixture
def stub(tmp_path):
    """A Python that appends its words to a log, a line a call, and fails at the module named in the file `fails`."""
    path = tmp_path / "python"
    path.write_text(
        f'#!/bin/bash\nprintf "%q " "${{@:2}}" >> {tmp_path}/log; echo >> {tmp_path}/log\n'
        f'if [[ -f {tmp_path}/fails && "$2" == "$(<{tmp_path}/fails)" ]]; then exit 75; fi\n'
    )
    path.chmod(0o755)
    return path


def script(stub: Path, name: str, *arguments: str, **variables: str) -> tuple[int, list[list[str]], str]:
    """Exit code, the commands that it called (module, arguments), and what it printed."""
    log = stub.parent / "log"
    log.write_text("")
    environment = os.environ | {"PYTHON": str(stub), "OUT": str(stub.parent / "out")} | variables
    done = subprocess.run(
        ["bash", f"launch/{name}.sh", *arguments], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    return done.returncode, [shlex.split(line) for line in log.read_text().splitlines()], done.stdout + done.stderr


def modules(calls: list[list[str]]) -> list[str]:
    return [call[0].partition(".")[2] for call in calls]


ONE_SEED = ["run", "quality", "train", "evaluate", "report"]


def test_voc_goes_from_the_budget_to_the_table(stub):
    code, calls, said = script(stub, "voc", SEEDS="0")
    assert code == 0, said
    assert modules(calls) == ["budget", "fetch", "weights", *ONE_SEED, *ONE_SEED, "claims", "beside"]
    out = stub.parent / "out"
    assert calls[-1][1:] == [f"--out={out}/table.md", f"{out}/run-voc21-0", f"{out}/run-voc20-0"]
    assert said.rstrip().endswith(f"open {out}/report-voc21/index.html in a browser.")


def test_sbd_and_seeds_are_variables_and_fields_go_to_every_command_with_a_config(stub):
    _, calls, _ = script(stub, "voc", "--config.device=cuda:1", SBD="1", SEEDS="0 1")
    assert modules(calls)[:4] == ["budget", "fetch", "fetch", "weights"]
    assert calls[0][-1] == "--fetch=voc,sbd" and calls[2][1] == "sbd"
    trained = [word for call in calls if call[0] == "fmbseg_jax.train" for word in call if ".seed=" in word]
    assert trained == ["--config.train.seed=0", "--config.train.seed=1"] * 2
    [tried] = [call for call in calls if call[0] == "experiments.claims"]
    assert "--seeds=2" in tried and any("labels,stages,alignment,encoders," in word for word in tried)
    assert all("--config.device=cuda:1" in call for call in calls if any(w.startswith("--config=") for w in call))


def test_it_ends_where_a_command_fails_and_goes_on_there(stub):
    (stub.parent / "fails").write_text("fmbseg_jax.train")
    code, calls, _ = script(stub, "voc", SEEDS="0")
    assert code == 75 and modules(calls) == ["budget", "fetch", "weights", "run", "quality", "train"]
    (stub.parent / "fails").unlink()
    code, calls, said = script(stub, "voc", SEEDS="0")
    assert code == 0 and modules(calls)[:4] == ["budget", "train", "evaluate", "report"]
    assert "== quality-voc21: done before" in said
    assert modules(script(stub, "voc", SEEDS="0")[1]) == ["budget", "beside"]  # all is done


def test_claims_that_fail_leave_the_table_and_are_tried_again(stub):
    (stub.parent / "fails").write_text("experiments.claims")
    code, calls, _ = script(stub, "voc", SEEDS="0")
    assert code == 75 and modules(calls)[-2:] == ["claims", "beside"]
    (stub.parent / "fails").unlink()
    code, calls, _ = script(stub, "voc", SEEDS="0")
    assert code == 0 and modules(calls) == ["budget", "claims", "beside"]


def test_a_command_with_other_words_is_run_again_and_all_after_it(stub):
    script(stub, "voc", SEEDS="0")
    _, calls, _ = script(stub, "voc", SEEDS="0 1")
    assert modules(calls)[:3] == ["budget", "train", "evaluate"] and "--config.train.seed=1" in calls[1]
    assert modules(calls)[3:9] == ["report", *ONE_SEED[:4], "train"]


def test_photos_need_a_folder_and_take_words_and_fields(stub, tmp_path):
    code, calls, said = script(stub, "photos", str(tmp_path / "none"))
    assert code == 2 and calls == [] and said.startswith("error: no folder of photos; make photos FOLDER=… WORDS=…")
    photos = f"--config.photos.root={tmp_path}"
    _, calls, _ = script(stub, "photos", str(tmp_path), "my.txt", "--config.device=cpu")
    assert modules(calls) == ["budget", "weights", "words", "run", "train", "predict", "report"]
    assert calls[1][1:] == ["--config=configs/my_photos.py", photos, "--config.ontology=my.txt", "--config.device=cpu"]
    _, calls, _ = script(stub, "photos", str(tmp_path), "--config.device=cpu", OUT=str(tmp_path / "other"))
    assert calls[1][1:] == ["--config=configs/my_photos.py", photos, "--config.device=cpu"]


def test_water_has_figures(stub, tmp_path):
    _, calls, _ = script(stub, "photos", str(tmp_path), CONFIG="configs/river_water.py")
    order = ["budget", "weights", "words", "run", "quality", "train", "evaluate", "results", "predict", "report"]
    assert modules(calls) == order


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The official hosts, small, on loopback; whose addresses are all that is put in place of the real ones."""
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    with serving(tmp_path / "served") as server:
        write_tar(server.folder / "VOCtrainval_11-May-2012.tar", voc_files())
        vision = {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 16, "layers": 3}
        text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
        model = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
        clip = tiny_models.shaken(open_clip.model.CLIP(24, vision, text))
        publish(server.folder / "tests/tiny-clip/open_clip_model.safetensors", clip)
        dino = timm.create_model("vit_small_patch14_dinov2", num_classes=0)
        publish(server.folder / "timm/vit_small_patch14_dinov2.lvd142m/model.safetensors", dino)
        torch.save(tiny_models.sam_model().state_dict(), server.folder / "tiny.pth")
        digest = hashlib.sha256((server.folder / "tiny.pth").read_bytes()).hexdigest()
        monkeypatch.setitem(sam_model_registry, "tiny", tiny_models.sam_model)
        monkeypatch.setitem(sam.RELEASES, "tiny", sam.Release("tiny.pth", digest, "https://nowhere.invalid"))
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "tiny-ViT", model)
        tag = open_clip.get_pretrained_cfg("ViT-L-14", "openai") | {"hf_hub": "tests/tiny-clip/"}
        monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "tiny-ViT", {"random": tag})
        monkeypatch.setenv("SAM_ENDPOINT", server.url)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            server.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        yield server


def publish(path: Path, model: torch.nn.Module) -> None:
    path.parent.mkdir(parents=True)
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, path)


def call(words: list[str]) -> int:
    module = importlib.import_module(words[0])
    return command(module.main, module.arguments(), words[1:])


def test_the_whole_way_on_voc_against_a_local_server(world, stub, tmp_path, capsys, monkeypatch):
    """As launch/voc.sh calls it, with one seed: a download that breaks, and one that is another file, on the way."""
    monkeypatch.chdir(ROOT)
    digest = hashlib.sha256((world.folder / "VOCtrainval_11-May-2012.tar").read_bytes()).hexdigest()
    fetch = f"--url={world.url}/moved/VOCtrainval_11-May-2012.tar --sha256={digest}"
    fields = [f"--config.{field}" for field in [*SMALL, f"weights_dir={tmp_path / 'weights'}"]]
    code, calls, said = script(stub, "voc", *fields, SEEDS="0", CLAIMS=CLAIMS, FETCH=fetch)
    assert code == 0, said
    for words in calls:
        if words[0] == "labelgen.budget":
            continue
        if words[0] == "labelgen.fetch":
            world.cut = [100_000] + [0] * 5
            assert call(words) == 2
        if words[0] == "labelgen.weights":
            whole = (world.folder / "tiny.pth").read_bytes()
            (world.folder / "tiny.pth").write_bytes(whole + b"?")
            assert call(words) == 2 and "tiny.pth.wrong; run the same command again" in capsys.readouterr().err
            (world.folder / "tiny.pth").write_bytes(whole)
        assert call(words) == 0, capsys.readouterr().err
    table = (tmp_path / "out/table.md").read_text()
    assert "| VOC21: method | mIoU, % |" in table and "| VOC20: method | mIoU, % |" in table
    assert "| SCLIP; ViT-B/16, no refinement [S] | 59.63 |" in table and table.count("| **ours: head** | **") == 2
    assert (tmp_path / "out/report-voc21/index.html").is_file()
    page = (tmp_path / "out/claims/claims.md").read_text()
    assert "`voc.py:voc21`: 21 classes, photos 4 of train, 1 of val; 1 seeds" in page
    assert page.count("train has no truth: the photos of val were given free labels") == 2
    assert page.count("Verdict: **") == CLAIMS.count(",") + 1 and "not tried" not in page
    assert world.asked[-1][0].startswith("/t")  # everything after the weights asked no server
