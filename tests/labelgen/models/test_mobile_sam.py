import numpy as np
import pytest
import torch

from configs.default import get_config
from labelgen.core.errors import UserError
from labelgen.models import compute, mobile_sam, weight_files
from labelgen.models.libraries import TinyVit, sam_model_registry
from labelgen.models.sam import load_sam
from tests.worlds.tiny_vit import Reference, Sizes, random_state, release_shapes

SMALL = Sizes((8, 12, 24, 32), (1, 1, 2, 1), (1, 2, 3, 4), (3, 3, 4, 3), channels=16, classes=5)
UNUSED = {f"image_encoder.{key}" for key in ("norm_head.weight", "norm_head.bias", "head.weight", "head.bias")}


def official_shapes():
    """Key -> shape of mobile_sam.pt: its own image encoder; prompt encoder and mask decoder as of every SAM."""
    with torch.device("meta"):
        state = sam_model_registry["vit_b"]().state_dict()
    others = {key: tuple(value.shape) for key, value in state.items() if not key.startswith("image_encoder.")}
    return {f"image_encoder.{key}": shape for key, shape in release_shapes(Sizes()).items()} | others


@pytest.fixture(scope="module")
def state():
    return {
        key: torch.tensor(7) if key.endswith("num_batches_tracked") else torch.zeros(shape)
        for key, shape in official_shapes().items()
    }


def small_encoder(state):
    vit = TinyVit(
        num_classes=0,
        embed_dims=SMALL.dims,
        depths=SMALL.depths,
        num_heads=SMALL.heads,
        window_sizes=SMALL.windows,
        drop_path_rate=0.0,
    )
    model = mobile_sam.MobileEncoder(vit, 64, SMALL.channels).double().eval()
    prefixed = mobile_sam.renamed({f"image_encoder.{key}": value for key, value in state.items()})
    model.load_state_dict({key.removeprefix("image_encoder."): value for key, value in prefixed.items()})
    return model


def test_the_release_file_has_as_many_tensors_and_parameters_as_published():
    """As the published code builds it: 10,130,092 parameters, 4 bytes each in a file of 40.7 MB."""
    shapes = official_shapes()
    counted = [
        key
        for key in shapes
        if not key.endswith(("running_mean", "running_var", "num_batches_tracked", "gaussian_matrix"))
    ]
    assert len(shapes) == 439
    assert sum(int(np.prod(shapes[key])) for key in counted) == 10_130_092


def test_every_key_of_the_release_file_fills_one_tensor_of_the_model_and_none_is_left(state):
    with torch.device("meta"):
        model = mobile_sam.build()
    names = {key: mobile_sam.as_timm(key) for key in state if key not in UNUSED}
    assert len(set(names.values())) == len(names) == len(state) - 4
    found = {key: value.shape for key, value in mobile_sam.renamed(state).items()}
    assert found == {key: value.shape for key, value in model.state_dict().items()}


def test_the_embedding_is_that_of_the_encoder_written_out_in_float64():
    state = random_state(release_shapes(SMALL))
    pixels = torch.randn(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        ours = small_encoder(state)(pixels)
    assert ours.shape == (1, 16, 4, 4)
    np.testing.assert_allclose(ours, Reference(state, SMALL)(pixels), rtol=0, atol=1e-11)


def test_half_precision_is_near_float32():
    model = small_encoder(random_state(release_shapes(SMALL))).float()
    pixels = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        exact = model(pixels)
        with compute.autocast(torch.device("cpu"), torch.bfloat16):
            half = model(pixels).float()
    assert 0 < float((half - exact).abs().mean()) < 0.05 * float(exact.abs().mean())


def test_an_attention_bias_belongs_to_the_distance_of_two_patches():
    state = random_state(release_shapes(SMALL))
    model = small_encoder(state)
    tokens = torch.randn(2, 16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        ours = model.stages[2].blocks[1].attn(tokens)
    reference = Reference(state, SMALL)
    for window, expected in zip(tokens, ours, strict=True):
        found = reference.attention("layers.2.blocks.1.attn", window, heads=3, window=4)
        np.testing.assert_allclose(expected, found, rtol=0, atol=1e-12)


def test_sam_name_mobile_sam_loads_the_file_as_every_other_sam(state, tmp_path):
    biases = torch.arange(4 * 49.0).reshape(4, 49)
    torch.save(state | {"image_encoder.layers.1.blocks.1.attn.attention_biases": biases}, tmp_path / "mobile_sam.pt")
    config = get_config().sam
    config.update(name="mobile_sam", weights="mobile_sam.pt", sha256=weight_files.digest(tmp_path / "mobile_sam.pt"))
    encoder = load_sam(config, tmp_path, "cpu", "float32")
    assert torch.equal(encoder.model.image_encoder.stages[1].blocks[1].attn.attention_biases, biases)
    assert encoder.identity() == {
        "weights": "mobile_sam.pt",
        "sha256": config.sha256,
        "input_px": 1024,
        "mean": pytest.approx([123.675, 116.28, 103.53]),
        "std": pytest.approx([58.395, 57.12, 57.375]),
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers.1.blocks.0.attn.extra": torch.zeros(2)}, "Unexpected key.*stages.1.blocks.0.attn.extra"),
        ({"neck.3.bias": None}, "Missing key.*image_encoder.neck.3.bias"),
        ({"layers.2.blocks.0.attn.attention_biases": torch.zeros(5, 49)}, "size mismatch for .*stages.2"),
        ({"stages.1.downsample.conv1.conv.weight": torch.zeros(128, 64, 1, 1)}, "a second key for .*stages.1"),
    ],
)
def test_a_file_of_other_keys_or_shapes_is_refused(state, tmp_path, change, message):
    path = tmp_path / "mobile_sam.pt"
    changed = state | {f"image_encoder.{key}": value for key, value in change.items()}
    torch.save({key: value for key, value in changed.items() if value is not None}, path)
    with pytest.raises(UserError, match=rf"mobile_sam\.pt: are the weights of another model than mobile.*{message}"):
        mobile_sam.load(path)
