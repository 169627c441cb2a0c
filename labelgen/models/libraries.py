"""The libraries of the frozen teachers, handed on in an order in which they can be imported.

timm, open_clip and segment_anything all import torchvision, whose public wheel does not load beside a CPU build of
torch without labelgen.models.torchvision_shim. Nothing else imports them by themselves.
"""

# ruff: noqa: E402  (after the shim)

from labelgen.models.torchvision_shim import install

install()

import open_clip
import timm
from open_clip.factory import load_checkpoint
from open_clip.model import CLIP, CustomTextCLIP, resize_pos_embed
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import PatchDropout, QuickGELU, ResidualAttentionBlock, VisionTransformer
from segment_anything import SamAutomaticMaskGenerator, SamPredictor, sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from segment_anything.modeling.common import LayerNorm2d
from segment_anything.modeling.image_encoder import get_rel_pos, window_partition, window_unpartition
from segment_anything.utils.amg import build_point_grid, calculate_stability_score
from segment_anything.utils.transforms import ResizeLongestSide
from timm.layers.config import set_fused_attn
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.models.tiny_vit import TinyVit
from torchvision.ops.boxes import batched_nms

__all__ = [
    "CLIP",
    "CustomTextCLIP",
    "ImageEncoderViT",
    "LayerNorm2d",
    "MaskDecoder",
    "PatchDropout",
    "PromptEncoder",
    "QuickGELU",
    "ResidualAttentionBlock",
    "ResizeLongestSide",
    "Sam",
    "SamAutomaticMaskGenerator",
    "SamPredictor",
    "SimpleTokenizer",
    "TinyVit",
    "TwoWayTransformer",
    "VisionTransformer",
    "batched_nms",
    "build_point_grid",
    "calculate_stability_score",
    "get_rel_pos",
    "load_checkpoint",
    "open_clip",
    "resample_abs_pos_embed",
    "resize_pos_embed",
    "sam_model_registry",
    "set_fused_attn",
    "timm",
    "window_partition",
    "window_unpartition",
]
