"""Official CLIPs without their weights: what each tag says, official shapes, the formats of official files."""

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from labelgen.core.errors import UserError
from labelgen.models import clip
from labelgen.models.clip import load_clip
from labelgen.models.libraries import QuickGELU, open_clip
from tests.worlds import tiny_models

NAMES = [
    "ViT-B-16", "ViT-B-16-quickgelu", "ViT-L-14", "ViT-L-14-quickgelu", "ViT-L-14-336", "ViT-L-14-336-quickgelu",
]  # fmt: skip
TAGS = [(name, tag) for name in NAMES for tag in open_clip.list_pretrained_tags_by_model(name)]


def config(name, tag):
    fields = tiny_models.config(Path("weights")).clip
    fields.update(name=name, pretrained=tag)
    return fields


def open_clips_own(name, tag, monkeypatch):
    """What open_clip makes of an architecture and tag, without weights, and whether it doubts the GELU itself."""
    monkeypatch.setattr(open_clip.factory, "download_pretrained", lambda *args, **kwargs: "none")
    monkeypatch.setattr(logging.root, "disabled", True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model, _, _ = open_clip.create_model_and_transforms(name, tag, load_weights=False, device="meta")
    return model, any("QuickGELU mismatch" in str(warning.message) for warning in said)


@pytest.mark.parametrize(("name", "tag"), TAGS)
def test_every_tag_has_the_pixels_and_gelu_that_open_clip_gives_it(monkeypatch, name, tag):
    """Where open_clip warns that the architecture's GELU is not the tag's, we have the tag's."""
    monkeypatch.setattr(clip.weight_files, "find", lambda *args: Path("none"))
    monkeypatch.setattr(clip, "_tokenizer", str)  # takes longer than all else
    with torch.device("meta"):
        theirs, doubted = open_clips_own(name, tag, monkeypatch)
        source = clip.from_tag(config(name, tag), Path("weights"))
        ours = clip.build(source.model, name)
    pixels = theirs.visual.preprocess_cfg
    assert (source.mean, source.std) == (pixels["mean"], pixels["std"])
    assert source.interpolation == pixels["interpolation"] and ours.visual.image_size == pixels["size"]
    assert doubted == (open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False) and "quick" not in name)
    for tower, its in ((ours.visual.transformer, theirs.visual.transformer), (ours.transformer, theirs.transformer)):
        for block, other in zip(tower.resblocks, its.resblocks, strict=True):
            assert type(block.mlp.gelu) is (QuickGELU if doubted else type(other.mlp.gelu))


@pytest.mark.parametrize(
    ("name", "tag", "quick", "mean"),
    [
        ("ViT-B-16", "openai", True, 0.48145466),
        ("ViT-B-16", "laion2b_s34b_b88k", False, 0.48145466),
        ("ViT-B-16", "datacomp_xl_s13b_b90k", False, 0.48145466),
        ("ViT-B-16", "dfn2b", True, 0.48145466),
        ("ViT-B-16", "metaclip_fullcc", True, 0.48145466),
        ("ViT-L-14", "openai", True, 0.48145466),
        ("ViT-L-14", "laion2b_s32b_b82k", False, 0.5),
        ("ViT-L-14-336", "openai", True, 0.48145466),
    ],
)
def test_well_known_tags_are_what_their_publishers_say(monkeypatch, name, tag, quick, mean):
    monkeypatch.setattr(clip.weight_files, "find", lambda *args: Path("none"))
    source = clip.from_tag(config(name, tag), Path("weights"))
    assert source.model["quick_gelu"] is quick and source.mean[0] == mean


@pytest.mark.parametrize(
    ("name", "tag", "message"),
    [
        ("ViT-B-16-SigLIP", "webli", "need a plain ViT with a CLS token"),
        ("ViT-L-14-CLIPA", "datacomp1b", "need a plain ViT with a CLS token"),
        ("RN50", "openai", "need a plain ViT with a CLS token"),
        ("xlm-roberta-base-ViT-B-32", "laion5b_s13b_b90k", "its text tower is another library's"),
        ("coca_ViT-L-14", "laion2b_s13b_b90k", r"cannot be built from this \(TypeError"),
    ],
)
def test_a_model_that_cannot_be_used_is_refused_before_it_is_downloaded(monkeypatch, tmp_path, name, tag, message):
    monkeypatch.setattr(open_clip, "download_pretrained", lambda *args: pytest.fail("downloads"))
    with pytest.raises(UserError, match=f"clip.name = '{name}'.*{message}"):
        load_clip(config(name, tag), tmp_path, "cpu", "float32")


def test_a_tokenizer_that_cannot_be_fetched_is_named(monkeypatch, tmp_path):
    def offline(name):
        raise OSError("offline")

    monkeypatch.setattr(open_clip, "get_tokenizer", offline)
    monkeypatch.setattr(clip.weight_files, "find", lambda *args: Path("none"))
    with pytest.raises(UserError, match="'ViT-B-16': its tokenizer cannot be had .OSError: offline.; choose one with"):
        load_clip(config("ViT-B-16", "openai"), tmp_path, "cpu", "float32")


def official(name, tag, **layers):
    """The official architecture with random weights, as open_clip builds it; layers: of a tower, to save time."""
    arguments = open_clip.get_model_config(name)
    for tower, count in layers.items():
        arguments[tower]["layers"] = count
    torch.manual_seed(0)
    quick = open_clip.get_pretrained_cfg(name, tag).get("quick_gelu", False)
    return arguments, tiny_models.lively(open_clip.CLIP(**arguments | {"quick_gelu": quick}))


@pytest.mark.parametrize(
    ("name", "tag", "layers"),
    [
        ("ViT-B-16", "openai", {}),
        ("ViT-L-14", "laion2b_s32b_b82k", {"vision_cfg": 3, "text_cfg": 1}),
    ],
)
def test_at_official_shapes_embeddings_are_open_clips_own(monkeypatch, tmp_path, name, tag, layers):
    """ViT-B/16 as published; ViT-L/14 with fewer blocks: widths, heads, patch and 224 px as published."""
    arguments, model = official(name, tag, **layers)
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: arguments)
    save_file(model.state_dict(), tmp_path / f"{name}-{tag}.safetensors")
    encoder = load_clip(config(name, tag), tmp_path, "cpu", "float32")
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    pixels = open_clip.get_pretrained_cfg(name, tag)
    mean, std = (torch.tensor(pixels[key]).view(3, 1, 1) for key in ("mean", "std"))
    words, template = ["cat", "dining table"], "a photo of a {}."  # of different length
    tokens = open_clip.get_tokenizer(name)([template.format(word) for word in words])
    with torch.inference_mode():
        expected = model.encode_image((torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std, True)
        text = model.encode_text(tokens, normalize=True)
    assert F.cosine_similarity(*expected, dim=0) < 0.9999 > F.cosine_similarity(*text, dim=0)  # they can be told apart
    assert torch.equal(encoder.source.tokenizer(words * 30), open_clip.get_tokenizer(name)(words * 30))
    np.testing.assert_allclose(encoder.crops(images), expected, atol=1e-5)
    np.testing.assert_allclose(encoder.text(words, [template]), text, atol=1e-5)
    assert expected.shape == text.shape == (2, {"ViT-B-16": 512, "ViT-L-14": 768}[name])


def tree(state):
    """A module with these tensors, to be scripted."""
    root = torch.nn.Module()
    for key, value in state.items():
        *parents, leaf = key.split(".")
        module = root
        for parent in parents:
            if parent not in dict(module.named_children()):
                module.add_module(parent, torch.nn.Module())
            module = getattr(module, parent)
        module.register_buffer(leaf, value)
    return root


def release_file(state, path):
    """As OpenAI's: a TorchScript archive in half precision that holds three sizes besides."""
    sizes = {key: torch.tensor(1) for key in ("input_resolution", "context_length", "vocab_size")}
    torch.jit.script(tree({key: value.half() for key, value in state.items()} | sizes)).save(str(path))


SMALL = {
    "embed_dim": 24,
    "vision_cfg": tiny_models.CLIP_JSON["vision_cfg"],
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
}
SAVE = {
    "a hub's safetensors": (".safetensors", save_file),
    "a hub's bin": (".bin", torch.save),
    "open_clip's training checkpoint": (
        ".pt",
        lambda state, path: torch.save(
            {"epoch": 32, "name": "run", "state_dict": {f"module.{key}": value for key, value in state.items()}}, path
        ),
    ),
    "OpenAI's release file": (".pt", release_file),
    "OpenAI's release file, renamed": (".safetensors", release_file),
}


@pytest.mark.parametrize("kind", list(SAVE))
def test_every_format_of_official_files_is_read(monkeypatch, tmp_path, kind):
    suffix, save = SAVE[kind]
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: dict(SMALL))
    torch.manual_seed(0)
    state = tiny_models.shaken(open_clip.CLIP(**SMALL, quick_gelu=True)).state_dict()
    save(state, tmp_path / f"ViT-B-16-openai{suffix}")
    encoder = load_clip(config("ViT-B-16", "openai"), tmp_path, "cpu", "float32")
    for key, value in encoder.model.state_dict().items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, state[key], rtol=1e-3 if "release" in kind else 0, atol=1e-6)


def test_an_archive_of_another_model_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(open_clip, "get_model_config", lambda _: dict(SMALL))
    release_file({"visual.proj": torch.zeros(2, 2)}, tmp_path / "ViT-B-16-openai.pt")
    with pytest.raises(UserError, match=r"ViT-B-16-openai.pt: are the weights of another model than ViT-B-16"):
        load_clip(config("ViT-B-16", "openai"), tmp_path, "cpu", "float32")
