"""Which encoder gives the patch features: CLIP's own trunk, SAM's image encoder, or any fitting model of timm.

Data flow: config.encoder (and config.clip or config.sam, where it names them) -> PatchEncoder, weight file.
"""

from pathlib import Path

from ml_collections import ConfigDict

from labelgen import timm_encoder
from labelgen.clip import ClipEncoder, load_clip
from labelgen.clip_trunk import ClipTrunk
from labelgen.patch_encoder import PatchEncoder, View
from labelgen.sam import SamEncoder, load_sam
from labelgen.sam_trunk import SamTrunk
from labelgen.weight_files import WeightFile


def load_encoder(
    config: ConfigDict,
    weights_dir: str | Path = "",
    clip: ClipEncoder | None = None,
    sam: SamEncoder | None = None,
) -> PatchEncoder:
    """The encoder of config.encoder. Reads encoder, clip, sam, device, dtype, weights_dir (unless given).

    clip, sam: those of the config where they are loaded already. UserError as their loaders, timm_encoder.load_encoder
    and PatchEncoder.
    """
    fields, common = config.encoder, (weights_dir or config.weights_dir, config.device, config.dtype)
    view = View(fields.size_px, fields.height_px, fields.window_px, fields.stride_px)
    if fields.name == "clip":
        return PatchEncoder(ClipTrunk(clip or load_clip(config.clip, *common), fields.layers, fields.join), view)
    if fields.name == "sam":
        return PatchEncoder(SamTrunk(sam or load_sam(config.sam, *common), fields.layers, fields.join), view)
    return timm_encoder.load_encoder(fields, *common)


def weight_file(config: ConfigDict) -> WeightFile | None:
    """The file of config.encoder; None where it is CLIP's or SAM's. UserError for an unknown name."""
    if config.encoder.name in ("clip", "sam"):
        return None
    return timm_encoder.weight_file(config.encoder, config.weights_dir)
