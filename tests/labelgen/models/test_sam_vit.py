"""SAM's image encoder and mask decoder as we run them, beside the official ones on the same weights."""

import pytest
import torch

from labelgen.models import sam_network
from labelgen.models.libraries import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer
from labelgen.models.sam_network import PointDecoder
from tests.worlds import tiny_models


@pytest.fixture
def encoder():
    """A window that does not divide the grid of 10 x 10, a global block, relative positions."""
    torch.manual_seed(0)
    fields = {"window_size": 4, "global_attn_indexes": (1,), "use_rel_pos": True}
    return tiny_models.shaken(
        ImageEncoderViT(img_size=80, patch_size=8, embed_dim=32, depth=3, num_heads=2, out_chans=16, **fields)
    )


@pytest.mark.parametrize("cached_scores", [7, 1000, 1 << 20])
def test_embeddings_are_the_official_encoders(encoder, monkeypatch, cached_scores):
    monkeypatch.setattr(sam_network, "CACHED_SCORES", cached_scores)
    pixels = torch.randn(2, 3, 80, 80)
    with torch.inference_mode():
        torch.testing.assert_close(sam_network.embed(encoder, pixels), encoder(pixels), atol=2e-5, rtol=1e-4)


def test_embeddings_by_one_kernel_are_the_official_encoders(encoder, monkeypatch):
    """What a GPU runs."""
    monkeypatch.setattr(sam_network, "in_parts", sam_network.fused)
    pixels = torch.randn(2, 3, 80, 80)
    with torch.inference_mode():
        torch.testing.assert_close(sam_network.embed(encoder, pixels), encoder(pixels), atol=2e-5, rtol=1e-4)
        monkeypatch.setattr(sam_network, "_bias", lambda attention, q, grid_hw: None)
        assert (sam_network.embed(encoder, pixels) - encoder(pixels)).abs().max() > 1e-2


def test_an_encoder_of_another_kind_is_run_as_it_is():
    pixels = torch.randn(1, 3, 4, 4)
    torch.testing.assert_close(sam_network.embed(torch.nn.Identity(), pixels), pixels)


@pytest.mark.parametrize("heads", [1, 8])  # fewer products where heads x 7 tokens are less than the inner width of 16
def test_masks_and_ious_are_the_official_decoders(heads):
    torch.manual_seed(1)
    transformer = TwoWayTransformer(depth=2, embedding_dim=32, num_heads=heads, mlp_dim=64)
    decoder = tiny_models.shaken(MaskDecoder(transformer_dim=32, transformer=transformer))
    prompts = tiny_models.shaken(PromptEncoder(32, (6, 6), (96, 96), 4))
    features, points = torch.randn(1, 32, 6, 6), torch.rand(5, 2) * 96
    with torch.inference_mode():
        sparse, dense = prompts((points[:, None], torch.ones(5, 1, dtype=torch.int)), None, None)
        low, iou = decoder(features, prompts.get_dense_pe(), sparse, dense, multimask_output=True)
        ours = PointDecoder(prompts, decoder)(features, points)
    torch.testing.assert_close(ours[0], low.flatten(0, 1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours[1], iou.flatten(), atol=1e-5, rtol=1e-4)
