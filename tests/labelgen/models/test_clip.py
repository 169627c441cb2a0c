import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from labelgen.core.errors import UserError
from labelgen.models import clip
from labelgen.models.clip import load_clip
from labelgen.models.libraries import CLIP, QuickGELU, load_checkpoint, open_clip
from tests.worlds import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(folder):
    return tiny_models.config(folder).clip


@pytest.fixture
def encoder(config, folder):
    return load_clip(config, folder, "cpu", "float32")


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def pixels(images):
    """As open_clip's own transform normalises them."""
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (tiny_models.MEAN, tiny_models.STD))
    return (torch.from_numpy(images).permute(0, 3, 1, 2) / 255 - mean) / std


def test_crop_embeddings_are_open_clips_own(encoder, images):
    model = tiny_models.clip_model(tiny_models.CLIP_JSON)
    with torch.no_grad():
        expected = model.encode_image(pixels(images), normalize=True)
    assert images.shape[0] > encoder.batches.rows  # more than one batch
    np.testing.assert_allclose(encoder.crops(images), expected, atol=2e-6)
    np.testing.assert_allclose(encoder.crops(images).norm(dim=1), 1, rtol=1e-6)


def test_text_is_averaged_over_templates_and_no_image_tower_runs(encoder, monkeypatch):
    monkeypatch.setattr(type(encoder.visual), "forward", None)
    monkeypatch.setattr(encoder.visual.conv1, "forward", None)
    templates = ("a {}.", "the {} {{")
    rows = encoder.text(["ball", "box"], templates)
    model, tokenize = tiny_models.clip_model(tiny_models.CLIP_JSON), encoder.source.tokenizer
    for row, word in zip(rows, ("ball", "box"), strict=True):
        with torch.no_grad():
            each = model.encode_text(tokenize([f"a {word}.", f"the {word} {{{{"]), normalize=True)
        np.testing.assert_allclose(row, F.normalize(each.mean(0), dim=0), atol=2e-6)
    assert rows.dtype == np.float32 and rows.shape == (2, 24)


def test_the_templates_of_imagenet_are_the_80_of_open_clip(encoder):
    patterns = clip.written_out(("imagenet",))
    assert len(set(patterns)) == 80 == sum(pattern.count("{}") for pattern in patterns)
    assert patterns == [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    assert [template("box") for template in open_clip.OPENAI_IMAGENET_TEMPLATES] == [
        pattern.replace("{}", "box") for pattern in patterns
    ]
    np.testing.assert_array_equal(encoder.text(["box"], ("imagenet",)), encoder.text(["box"], patterns))
    assert clip.written_out(("a {}.",)) == ["a {}."]


def test_the_vocabulary_beside_the_config_is_used(encoder):
    tokens = encoder.source.tokenizer(["ball"])[0]
    assert (tokens != 0).sum() == 3 and len(tokens) == 12  # start, "ball" as one token by the merges, end


def test_position_embeddings_of_another_size_are_resized_as_open_clip_does(encoder, folder):
    images = np.random.default_rng(1).integers(0, 256, (2, 48, 48, 3), np.uint8)
    text = {k: v for k, v in tiny_models.CLIP_JSON["text_cfg"].items() if k != "tokenizer_kwargs"}
    larger = CLIP(24, {**tiny_models.CLIP_JSON["vision_cfg"], "image_size": 48}, text, quick_gelu=True)
    load_checkpoint(larger, str(folder / "clip.safetensors"))
    with torch.no_grad():
        expected = larger.eval().encode_image(pixels(images), normalize=True)
    np.testing.assert_allclose(encoder.crops(images), expected, atol=2e-6)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near_float32_and_gives_float32(folder, config, encoder, images, dtype):
    half = load_clip(config, folder, "cpu", dtype)
    rows = half.crops(images)
    assert rows.dtype == torch.float32 and not torch.equal(rows, encoder.crops(images))
    assert (rows * encoder.crops(images)).sum(1).min() > 0.995
    np.testing.assert_array_equal(half.text(["ball"], ["{}"]), encoder.text(["ball"], ["{}"]))


@pytest.mark.parametrize(
    ("tag", "quick", "mean"),
    [("openai", True, 0.48145466), ("laion2b_s34b_b88k", False, 0.48145466), ("datacomp_l_s1b_b8k", False, 0.48145466)],
)
def test_gelu_and_normalisation_come_from_the_tag(folder, config, monkeypatch, tmp_path, tag, quick, mean):
    """A small model stands in for the architecture; the file is found by its name in weights_dir."""
    small = {k: v for k, v in tiny_models.CLIP_JSON.items() if k not in ("preprocess", "quick_gelu")}
    small["text_cfg"] = {**small["text_cfg"], "vocab_size": 49408, "context_length": 77}
    del small["text_cfg"]["tokenizer_kwargs"]
    monkeypatch.setattr(open_clip, "get_model_config", lambda name: {**small, "text_cfg": dict(small["text_cfg"])})
    model = CLIP(**small)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / f"ViT-B-16-{tag}.safetensors")
    config.update(name="ViT-B-16", pretrained=tag)
    encoder = load_clip(config, tmp_path, "cpu", "float32")
    assert isinstance(encoder.visual.transformer.resblocks[0].mlp.gelu, QuickGELU) == quick
    assert encoder.source.mean[0] == mean and encoder.identity()["quick_gelu"] == quick
    assert encoder.text(["a cat"], ["a photo of {}"]).shape == (1, 24)


def refuse(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("offline")

    monkeypatch.setattr(open_clip, "download_pretrained", offline)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "ViT-Q"}, "clip.name = 'ViT-Q' is no open_clip architecture"),
        ({"name": "ViT-B-16", "pretrained": "mine"}, "no tag of ViT-B-16; its tags: openai, .*laion2b_s34b_b88k"),
        (
            {"name": "ViT-B-16", "pretrained": "openai"},
            r"ViT-B-16-openai\.safetensors: no such weight file.*huggingface.co/timm/vit_base_patch16_clip_224.openai",
        ),
        ({"name": "none.json"}, r"none\.json: no such model config"),
        ({"pretrained": "none.safetensors"}, r"none\.safetensors: no such weight file"),
        ({"pretrained": "sam.safetensors"}, r"sam\.safetensors: are the weights of another model than clip\.json"),
        ({"name": "sam.json"}, r"sam\.json: has no 'embed_dim'"),
        ({"sha256": "00ff"}, r"clip\.safetensors: sha256 is .*, but 00ff is wanted"),
    ],
)
def test_a_wrong_name_or_file_says_what_would_fix_it(folder, config, monkeypatch, fields, message):
    refuse(monkeypatch)
    config.update(**fields)
    with pytest.raises(UserError, match=message):
        load_clip(config, folder, "cpu", "float32")


def described(folder, config, **changes):
    """A model config in a folder of its own that differs from the tiny one."""
    (folder / "other.json").write_text(json.dumps({**tiny_models.CLIP_JSON, **changes}))
    config.name = "other.json"
    return config


def test_a_model_config_that_does_not_fit_is_refused(folder, config):
    vision, text = tiny_models.CLIP_JSON["vision_cfg"], tiny_models.CLIP_JSON["text_cfg"]
    for changes, message in [
        ({"text_cfg": {**text, "vocab_size": 500}}, "519 tokens, but other.json has vocab_size = 500"),
        ({"text_cfg": {**text, "tokenizer_kwargs": {"bpe_path": "no.gz"}}}, r"no\.gz: no such weight file"),
        ({"vision_cfg": {**vision, "depth": 3}}, r"cannot be built from this \(TypeError"),
        ({"vision_cfg": {**vision, "pool_type": "avg"}}, "need a plain ViT with a CLS token"),
        ({"vision_cfg": {**vision, "qk_norm": True}}, "need a plain ViT with a CLS token"),
        ({"embed_dim": 25}, "weights of another model than other.json.*size mismatch"),
        ({"vision_cfg": {**vision, "layers": 2}}, "weights of another model than other.json.*Unexpected key"),
        ({"preprocess": {"mean": [0.5, 0.5, 0.5]}}, "preprocess: the model cannot be built"),
    ]:
        with pytest.raises(UserError, match=message):
            load_clip(described(folder, config, **changes), folder, "cpu", "float32")


def test_a_digest_in_the_model_config_is_checked(folder, config):
    with pytest.raises(UserError, match="but 00aa is wanted"):
        load_clip(described(folder, config, sha256="00aa"), folder, "cpu", "float32")


def test_identity_tells_models_apart_and_names_no_path(encoder, folder):
    identity = encoder.identity()
    assert identity["sha256"] == clip.weight_files.digest(folder / "clip.safetensors")
    assert identity["mean"] == tiny_models.MEAN and str(folder) not in str(identity)
