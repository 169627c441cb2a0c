"""Official DINOv2 names: Meta's keys and shapes, and Meta's position embeddings on other grids, with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from labelgen.core.geometry import view_grid
from labelgen.models import trunks
from labelgen.models.libraries import timm
from labelgen.models.trunks import load_timm
from tests.worlds import tiny_models


@pytest.fixture
def config():
    return tiny_models.config(Path("weights")).encoder


def cubic(positions, scale):
    """float64 [out, in] weights of bicubic interpolation (Keys, a = -3/4) at (i + .5) / scale - .5, edges repeated."""
    out = np.zeros((int(positions * scale), positions))
    for i, row in enumerate(out):
        centre = (i + 0.5) / scale - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            d, a = abs(centre - tap), -0.75
            near, far = (a + 2) * d**3 - (a + 3) * d**2 + 1, a * (d**3 - 5 * d**2 + 8 * d - 4)
            row[min(max(tap, 0), positions - 1)] += near if d <= 1 else far
    return out


def official(monkeypatch, folder, name):
    """A small model with random weights under an official name."""
    create = timm.create_model

    def small(name, **kwargs):
        return create(name, **{**kwargs, **tiny_models.DINO_JSON["model_args"]})

    monkeypatch.setattr(timm, "create_model", small)
    torch.manual_seed(3)
    model = tiny_models.shaken(small(name, num_classes=0))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / f"{name}.safetensors")


@pytest.mark.parametrize("size_hw", [(96, 96), (60, 90), (90, 33)])
def test_position_embeddings_without_registers_are_scaled_as_metas_code_does(tmp_path, monkeypatch, config, size_hw):
    """By a tenth of a patch more than the grid, and not antialiased: in float64 from the formula."""
    name = "vit_small_patch14_dinov2.lvd142m"
    official(monkeypatch, tmp_path, name)
    config.update(name=name, weights="", size_px=80)
    encoder = load_timm(config, tmp_path, "cpu", "float32")
    model, (h, w) = encoder.trunk.model, view_grid(size_hw, 80, 8)[0]
    assert h != w or h > 6  # trained on 6 x 6
    trained = model.pos_embed[0].double().numpy()
    grid = trained[1:].reshape(6, 6, 32)
    rows, columns = cubic(6, (h + 0.1) / 6), cubic(6, (w + 0.1) / 6)
    expected = np.einsum("ia,jb,abd->ijd", rows, columns, grid).reshape(h * w, 32)
    patches = torch.randn(2, h, w, 32)
    tokens = model._pos_embed(patches)
    np.testing.assert_allclose(tokens[:, 1:], patches.flatten(1, 2).numpy() + expected, atol=1e-5)
    np.testing.assert_allclose(tokens[1, 0], model.cls_token[0, 0].numpy() + trained[0], atol=1e-6)
    timms = type(model)._pos_embed(model, patches)
    assert (tokens - timms).abs().max() > 0.01
    assert encoder.features(np.zeros((*size_hw, 3), np.uint8)).shape == (h, w, 32)


def test_at_the_training_grid_features_are_timms(tmp_path, monkeypatch, config):
    name = "vit_small_patch14_dinov2.lvd142m"
    official(monkeypatch, tmp_path, name)
    config.update(name=name, weights="", size_px=48)
    encoder = load_timm(config, tmp_path, "cpu", "float32")
    pixels, model = torch.randn(1, 3, 48, 48), encoder.trunk.model
    ours = encoder.maps(pixels).flatten(1, 2)
    del model._pos_embed  # timm's own method again
    with torch.no_grad():
        assert torch.equal(ours, model.forward_features(pixels)[:, 1:])


def test_position_embeddings_with_registers_are_timms_which_are_metas(tmp_path, monkeypatch, config):
    name = "vit_small_patch14_reg4_dinov2.lvd142m"
    official(monkeypatch, tmp_path, name)
    config.update(name=name, weights="")
    assert "_pos_embed" not in vars(load_timm(config, tmp_path, "cpu", "float32").trunk.model)


def metas_shapes(depth, width, registers, packed):
    """Key -> shape of dinov2_vit*14_pretrain.pth, as facebookresearch/dinov2's vision_transformer.py names them."""
    shapes = {"cls_token": (1, 1, width), "pos_embed": (1, 1370, width), "mask_token": (1, width)}
    shapes |= {"patch_embed.proj.weight": (width, 3, 14, 14), "patch_embed.proj.bias": (width,)}
    shapes |= {"register_tokens": (1, registers, width)} if registers else {}
    hidden = (int(4 * width * 2 / 3) + 7) // 8 * 8
    ffn = {"w12": (2 * hidden, width), "w3": (width, hidden)} if packed else {}
    ffn = ffn or {"fc1": (4 * width, width), "fc2": (width, 4 * width)}
    linear = {"attn.qkv": (3 * width, width), "attn.proj": (width, width)} | {f"mlp.{k}": v for k, v in ffn.items()}
    for i in range(depth):
        shapes |= {f"blocks.{i}.{name}.weight": shape for name, shape in linear.items()}
        shapes |= {f"blocks.{i}.{name}.bias": shape[:1] for name, shape in linear.items()}
        shapes |= {f"blocks.{i}.{ls}.gamma": (width,) for ls in ("ls1", "ls2")}
        shapes |= {f"blocks.{i}.{n}.{kind}": (width,) for n in ("norm1", "norm2") for kind in ("weight", "bias")}
    return shapes | {"norm.weight": (width,), "norm.bias": (width,)}


@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize(
    ("size", "depth", "width"), [("small", 12, 384), ("base", 12, 768), ("large", 24, 1024), ("giant", 40, 1536)]
)
def test_every_key_of_metas_release_files_has_its_place(monkeypatch, size, depth, width, registers):
    """By name and shape, on the meta device: giant's packed SwiGLU too."""
    state = {
        key: torch.empty(shape, device="meta")
        for key, shape in metas_shapes(depth, width, registers, size == "giant").items()
    }
    monkeypatch.setattr(trunks.weight_files, "read_state", lambda path: state)
    with torch.device("meta"):
        model, _ = trunks.create(f"vit_{size}_patch14{'_reg4' if registers else ''}_dinov2.lvd142m", {}, Path("x.pth"))
    assert model.num_prefix_tokens == 1 + registers and model.pos_embed.shape[1] == 1369 + (not registers)


@pytest.mark.parametrize("metas", [False, True])
def test_a_timm_name_finds_its_file_in_weights_dir(config, monkeypatch, tmp_path, metas):
    """A small model stands in for the large one; Meta's own files name some weights otherwise than timm."""
    create, name = timm.create_model, "vit_small_patch14_reg4_dinov2.lvd142m"

    def small(name, **kwargs):
        return create(name, **{**kwargs, **tiny_models.DINO_JSON["model_args"]})

    monkeypatch.setattr(timm, "create_model", small)
    state = {key: value.contiguous() for key, value in tiny_models.dino_model().state_dict().items()}
    if metas:
        state["register_tokens"] = state.pop("reg_token")
        state["mask_token"] = torch.zeros(1, 32)
        state["pos_embed"] = torch.cat([torch.zeros(1, 1, 32), state["pos_embed"]], 1)
        torch.save(state, tmp_path / "dinov2_vits14_reg4_pretrain.pth")
    else:
        save_file(state, tmp_path / f"{name}.safetensors")
    config.name, config.weights = name, ""
    encoder = load_timm(config, tmp_path, "cpu", "float32")
    expected = tiny_models.dino_model().state_dict()
    for key, value in encoder.trunk.model.state_dict().items():
        torch.testing.assert_close(value, expected[key])
