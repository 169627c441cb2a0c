"""What a config needs, what is there, and what happens when it is fetched: from a local server, or from nowhere."""

import hashlib
from pathlib import Path

import pytest
import torch

from configs import default
from labelgen import weights
from labelgen.core import download
from labelgen.core.command import command
from labelgen.core.errors import UserError
from labelgen.models import clip, sam, trunks, weight_files
from labelgen.models.sam import load_sam
from tests.worlds import tiny_models
from tests.worlds.file_server import serving
from tests.worlds.paths import ROOT

VIT_B = "sam_vit_b_01ec64.pth"
HUB = "models--timm--vit_small_patch14_dinov2.lvd142m"


def release_at(monkeypatch, folder, vit_b=""):
    """SAM's official files are under this URL now, and vit_b's has this sha256."""
    for name, release in sam.RELEASES.items():
        digest = vit_b if vit_b and name == "vit_b" else release.sha256
        monkeypatch.setitem(sam.RELEASES, name, release._replace(folder=folder, sha256=digest))


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "FIRST_WAIT_S", 0.0)
    with serving(tmp_path / "served") as running:
        yield running


@pytest.fixture(autouse=True)
def nothing_else_is_reached(monkeypatch, tmp_path):
    def offline(*args, **kwargs):
        raise OSError("HF_HUB_OFFLINE: no network\nlong story")

    monkeypatch.setattr("open_clip.download_pretrained", offline)
    monkeypatch.setattr(trunks, "hf_hub_download", offline)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    release_at(monkeypatch, "http://127.0.0.1:9/")


@pytest.fixture
def config(tmp_path):
    """A config file: tiny models described by json, but SAM is the official vit_b."""
    tiny_models.write(tmp_path / "weights")
    (tmp_path / "config.py").write_text(
        "from tests.worlds.tiny_models import config as tiny\n\n\ndef get_config():\n"
        f"    config = tiny({str(tmp_path / 'weights')!r})\n"
        f"    config.sam.name, config.sam.weights = 'vit_b', {VIT_B!r}\n"
        "    return config\n"
    )
    return tmp_path / "config.py"


def run(config, *more):
    return command(weights.main, weights.arguments(), [f"--config={config}", *more])


def serve(server, monkeypatch):
    torch.save({"a": torch.ones(300)}, server.folder / VIT_B)
    digest = hashlib.sha256((server.folder / VIT_B).read_bytes()).hexdigest()
    release_at(monkeypatch, f"{server.url}/", digest)


def test_the_pocket_models_are_all_there(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert run("configs/pocket.py") == 0
    said = capsys.readouterr().out
    assert said.count("licence  Apache-2.0") == 3 and "MISSING" not in said
    found = hashlib.sha256(Path("pocket/weights/sam.safetensors").read_bytes()).hexdigest()
    assert "model    SAM sam.json\nfile     pocket/weights/sam.safetensors\nsize     3.4 MB\n" in said
    assert f"sha256   {found[:16]}..." in said
    ready = (
        "\nready: CLIP, SAM, encoder, each whole. next: python -m labelgen.run --config=configs/pocket.py --out=DATA\n"
    )
    assert said.endswith(ready)


def test_the_list_says_what_is_missing_from_where_and_how_large_and_fetches_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "find", None)
    assert run(ROOT / "configs/default.py", "--list", f"--config.weights_dir={tmp_path}/w") == 0
    said = capsys.readouterr().out
    assert "model    CLIP ViT-B-16 openai\n" in said and f"{tmp_path}/w/ViT-B-16-openai.safetensors  MISSING\n" in said
    # parameters as published: 149.6, 641.1 and 304.4 million, 4 bytes each
    assert [line for line in said.splitlines() if "size" in line] == [
        "size     about 598 MB",
        "size     about 2564 MB",
        "size     about 1217 MB",
    ]
    assert "licence  MIT" in said and said.count("licence  Apache-2.0") == 2
    assert "source   https://huggingface.co/timm/vit_large_patch14_dinov2.lvd142m (model.safetensors)" in said
    again = f"--config={ROOT}/configs/default.py --config.weights_dir={tmp_path}/w"
    assert said.endswith(f"\n0 of 3 files are there. next: python -m labelgen.weights {again}\n")
    assert not (tmp_path / "w").exists()


def test_what_is_missing_is_fetched_and_the_second_time_it_is_there(config, server, tmp_path, monkeypatch, capsys):
    serve(server, monkeypatch)
    assert run(config, "--list") == 0
    assert "2 of 3 files are there" in capsys.readouterr().out
    assert run(config) == 0
    said = capsys.readouterr()
    assert "fetching SAM vit_b\n" in said.err and "ready: CLIP, SAM, encoder" in said.out
    assert (tmp_path / "weights" / VIT_B).read_bytes() == (server.folder / VIT_B).read_bytes()
    release_at(monkeypatch, "http://127.0.0.1:9/")
    assert run(config) == 0
    assert "fetching" not in capsys.readouterr().err


def test_a_download_that_breaks_off_is_no_file_yet_and_goes_on(config, server, tmp_path, monkeypatch, capsys):
    serve(server, monkeypatch)
    server.cut = [1000] + [0] * 5
    assert run(config) == 2
    assert "the first 0.0 MB are in " in capsys.readouterr().err
    there = [path.name for path in (tmp_path / "weights").iterdir() if path.name.startswith("sam_vit")]
    assert there == [f"{VIT_B}.partial"]
    server.cut = []
    assert run(config) == 0
    assert server.asked[-1] == (f"/{VIT_B}", "bytes=1000-")


def test_a_killed_download_is_not_taken_for_whole(config, server, tmp_path, monkeypatch):
    serve(server, monkeypatch)

    def killed(source, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as dies:
        dies.setattr(download.os, "replace", killed)
        assert run(config) == 130
    assert not (tmp_path / "weights" / VIT_B).exists()
    assert run(config) == 0


def test_without_a_network_every_file_is_named_with_its_source(tmp_path, capsys):
    folder = tmp_path / "w"
    assert run(ROOT / "configs/default.py", f"--config.weights_dir={folder}") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: 3 of 3 missing files could not be fetched. CLIP: download it from https://hugg")
    for source, name in [
        (
            "timm/vit_base_patch16_clip_224.openai (open_clip_model.safetensors; a .bin or .pt keeps its ending)",
            "ViT-B-16-openai.safetensors",
        ),
        ("http://127.0.0.1:9/sam_vit_h_4b8939.pth", "sam_vit_h_4b8939.pth"),
        ("vit_large_patch14_dinov2.lvd142m (model.safetensors)", "vit_large_patch14_dinov2.lvd142m.safetensors"),
    ]:
        assert f"{source} and save it as {folder / name}" in error
    assert "long story" not in error


@pytest.mark.parametrize("name", [VIT_B, "clip.safetensors"])
@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", None])
def test_a_file_that_is_torn_or_no_weight_file_is_named(config, tmp_path, capsys, name, content):
    torch.save({"a": torch.ones(300)}, tmp_path / "weights" / VIT_B)
    path = tmp_path / "weights" / name
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert run(config) == 2
    assert f"{path}: " in capsys.readouterr().err


def test_a_whole_file_of_another_digest_than_the_releases_is_refused(config, tmp_path, capsys):
    torch.save({"a": torch.ones(300)}, tmp_path / "weights" / VIT_B)
    assert run(config) == 2
    error = capsys.readouterr().err
    assert f"{VIT_B}: is not the official file: sha256 is " in error and ", not ec2df" in error
    assert "fetch it again from http://127.0.0.1:9/sam_vit_b_01ec64.pth" in error
    digest = hashlib.sha256((tmp_path / "weights" / VIT_B).read_bytes()).hexdigest()
    assert run(config, f"--config.sam.sha256={digest}") == 0  # who states a digest means that file


def test_what_the_hub_left_is_found_without_a_network(tmp_path):
    fields = default.get_config()
    fields.encoder.name = "vit_small_patch14_dinov2.lvd142m"
    file = trunks.timm_file(fields.encoder, tmp_path / "weights")
    assert file.local() is None
    snapshot = tmp_path / "hub" / HUB / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").write_bytes(b"x")
    (tmp_path / "hub" / HUB / "refs").mkdir()
    (tmp_path / "hub" / HUB / "refs" / "main").write_text("abc")
    assert file.local() == snapshot / "model.safetensors"
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "vit_small_patch14_dinov2.lvd142m.safetensors").write_bytes(b"x")
    assert file.local().parent == tmp_path / "weights"  # the local folder comes first


@pytest.mark.parametrize(
    ("tag", "licence"),
    [("openai", "MIT"), ("laion2b_s34b_b88k", "MIT"), ("metaclip_400m", "see its model card")],
)
def test_licences_are_said_where_they_are_certain(tmp_path, tag, licence):
    fields = default.get_config()
    fields.clip.pretrained = tag
    assert clip.weight_file(fields.clip, tmp_path).licence == licence


def test_a_model_config_that_states_no_licence_is_not_given_one(config, capsys):
    assert run(config, "--list") == 0
    assert capsys.readouterr().out.count("licence  see its model card") == 2


def test_a_run_without_weights_names_the_command(tmp_path):
    fields = default.get_config()
    with pytest.raises(UserError, match="`python -m labelgen.weights` with the same --config lists all that is needed"):
        load_sam(fields.sam, tmp_path, "cpu", "float32")


def test_the_release_is_fetched_from_the_server_that_is_named(config, server, tmp_path, monkeypatch):
    serve(server, monkeypatch)
    release_at(monkeypatch, "http://127.0.0.1:9/", sam.RELEASES["vit_b"].sha256)
    monkeypatch.setenv("SAM_ENDPOINT", server.url)
    assert run(config) == 0
    assert (tmp_path / "weights" / VIT_B).is_file()


def test_a_digest_in_the_config_is_what_the_fetched_file_must_have(config, server, tmp_path, monkeypatch, capsys):
    serve(server, monkeypatch)
    assert run(config, f"--config.sam.sha256={'0' * 64}") == 2
    assert f"but {'0' * 64} is wanted" in capsys.readouterr().err


def test_a_file_that_was_damaged_in_the_hubs_cache_is_told(tmp_path):
    blob = tmp_path / "blobs" / hashlib.sha256(b"as it came").hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"as it came")
    (tmp_path / "model.safetensors").symlink_to(blob)
    weight_files.check_hub_digest(tmp_path / "model.safetensors")
    blob.write_bytes(b"damaged")
    with pytest.raises(
        UserError, match=rf"but the hub says {blob.name}; it was damaged: delete {blob} and run the same"
    ):
        weight_files.check_hub_digest(tmp_path / "model.safetensors")
