"""Losses of the pocket SAM: masks (dice + 2 BCE, the best of three), predicted IoU, and token affinity.

Masks are compared at the decoder's own resolution with the share of each cell that the region covers; real IoUs for
the IoU head at the model's input resolution, as they will be used. Letters: B pictures, P prompts each, Q = B P.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from labelgen.models.libraries import Sam
from pocket.sam_data import PAD, Batch
from pocket.sam_model import SIZE_PX

_OTHERS = 0.1  # weight of the masks that were not the best, so that none of the three dies
_SINGLE = 0.3  # weight of the decoder's fourth mask, the one for multimask_output=False
_IOU_STRIDE = 3  # real IoUs at full size are expensive: every third prompt teaches the IoU head


def predict(model: Sam, embeddings: torch.Tensor, points_xy: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [Q, 4, 4h, 4w] and predicted IoUs [Q, 4] of one-point prompts, mask 0 being the single one.

    embeddings: [B, C, h, w]; points_xy: [B, P, 2] px. The decoder takes one picture a call; here the pictures come in
    as dense prompts, which it adds to the picture's embedding, so that one call serves a batch.
    """
    count = points_xy.shape[1]
    labels = torch.ones(points_xy.numel() // 2, 1, dtype=torch.int)
    sparse, dense = model.prompt_encoder((points_xy.reshape(-1, 1, 2), labels), None, None)
    logits, ious = model.mask_decoder.predict_masks(
        image_embeddings=torch.zeros_like(embeddings[:1]),
        image_pe=model.prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense + embeddings.repeat_interleave(count, 0),
    )
    return logits, ious


def region_shares(regions: torch.Tensor, cells: int) -> torch.Tensor:
    """Share of each cell that each region covers: float32 [B, 16, cells, cells] of regions int64 [B, S, S]."""
    inside = regions[:, None] == torch.arange(16)[:, None, None]
    return functional.avg_pool2d(inside.float(), regions.shape[-1] // cells)


def mask_losses(logits: torch.Tensor, shares: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """Dice + 2 BCE for each mask: float32 [Q, M].

    logits: [Q, M, g, g]; shares: [Q, 1, g, g] of the region; valid: [Q, 1, g, g] of the photo.
    """
    probability = logits.sigmoid() * valid
    together = (probability * shares).sum((-2, -1))
    dice = 1 - (2 * together + 1) / (probability.square().sum((-2, -1)) + shares.square().sum((-2, -1)) + 1)
    bce = functional.binary_cross_entropy_with_logits(logits, shares.expand_as(logits), reduction="none")
    return dice + 2 * (bce * valid).sum((-2, -1)) / valid.sum((-2, -1))


@torch.no_grad()
def real_ious(logits: torch.Tensor, inside: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
    """IoU of each mask, brought to the input's resolution, with its region: float32 [Q, M].

    logits: [Q, M, g, g]; inside, valid: bool [Q, 1, S, S].
    """
    full = functional.interpolate(logits, (SIZE_PX, SIZE_PX), mode="bilinear", align_corners=False)
    masks = ((full > 0) & valid).flatten(2).float()
    truth = inside.flatten(2).float()
    together = (masks @ truth.transpose(1, 2))[..., 0]
    return together / (masks.sum(-1) + truth.sum(-1) - together).clamp(min=1)


class Affinity(nn.Module):
    """Whether two tokens of a picture belong to one region, from the encoder's output; used in training only."""

    def __init__(self, width: int, projected: int = 32) -> None:
        super().__init__()
        self.project = nn.Linear(width, projected)
        self.scale = nn.Parameter(torch.tensor([8.0, -4.0]))

    def forward(self, embeddings: torch.Tensor, regions: torch.Tensor) -> torch.Tensor:
        """Balanced cross-entropy over pairs of tokens. embeddings: [B, C, h, w]; regions: int64 [B, S, S]."""
        shares = region_shares(regions, embeddings.shape[-1]).flatten(2).transpose(1, 2)
        tokens = functional.normalize(self.project(embeddings.flatten(2).transpose(1, 2).float()), dim=-1)
        logits = tokens @ tokens.transpose(1, 2) * self.scale[0] + self.scale[1]
        affinity = shares @ shares.transpose(1, 2)
        size = shares.sum(1, keepdim=True)
        weight = (shares / size.clamp(min=1).sqrt()).sum(-1)  # tokens of small regions count more
        pairs = weight[:, :, None] * weight[:, None, :]
        alike, other = pairs * affinity, pairs * (1 - affinity)
        return -0.5 * (
            (functional.logsigmoid(logits) * alike).sum() / alike.sum()
            + (functional.logsigmoid(-logits) * other).sum() / other.sum()
        )


@dataclass(frozen=True)
class Losses:
    """The three terms and, for the log, the mean IoU of the best mask and of the chosen one."""

    mask: torch.Tensor
    iou: torch.Tensor
    affinity: torch.Tensor
    best: float
    chosen: float


def losses(model: Sam, affinity: Affinity, data: Batch) -> Losses:
    """All terms of a batch."""
    with torch.autocast("cpu", torch.bfloat16):
        embeddings = model.image_encoder(data.photos)
        logits, predicted = predict(model, embeddings, data.points_xy)
    logits, predicted = logits.float(), predicted.float()
    shares = region_shares(data.regions, logits.shape[-1])
    count = data.targets.shape[1]
    own = shares.gather(1, data.targets[..., None, None].expand(-1, -1, *shares.shape[-2:])).flatten(0, 1)[:, None]
    valid = shares.sum(1, keepdim=True).repeat_interleave(count, 0)
    each = mask_losses(logits, own, valid)
    three = each[:, 1:]
    mask = three.min(1).values + _OTHERS * three.mean(1) + _SINGLE * each[:, 0]
    some = slice(None, None, _IOU_STRIDE)
    inside = (data.regions[:, None] == data.targets[:, :, None, None]).flatten(0, 1)[some, None]
    photo = (data.regions != PAD).repeat_interleave(count, 0)[some, None]
    ious, predicted = real_ious(logits[some], inside, photo), predicted[some]
    chosen = ious[:, 1:].gather(1, predicted[:, 1:].argmax(1, keepdim=True))
    return Losses(
        mask=mask.mean(),
        iou=(predicted - ious).square().mean(),
        affinity=affinity(embeddings, data.regions),
        best=float(ious[:, 1:].max(1).values.mean()),
        chosen=float(chosen.mean()),
    )
