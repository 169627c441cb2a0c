"""The frozen encoders and what they make of one photo: its features, its evidence, its truth. No words here.

Data flow: Photo -> patch features (the trainer's), CLIP crops, dense maps and SAM masks (the labeller's). Before that,
config -> Needed, the three models and their weight files: what is there, what it weighs, what it may be used for; which
`labelgen.weights` fetches and `labelgen.budget` adds up.
"""

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.config import encoder_settings
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW, crop_windows, resize, tile
from labelgen.core.progress import StageTimes, say
from labelgen.data.records import FEATURE_DTYPES, EvidenceRow, PhotoRows, TruthRow, check_finite, feature_row
from labelgen.data.thumbnail import thumbnail
from labelgen.models import clip, compute, sam, trunks
from labelgen.models.clip import ClipEncoder, load_clip
from labelgen.models.dense_clip import check_variants, window_maps
from labelgen.models.sam import load_sam
from labelgen.models.trunks import load_encoder
from labelgen.models.weight_files import WeightFile, digest
from labelgen.sources.photos import Photo

Image = NDArray[np.uint8]
Floats = NDArray[np.float32]
Halves = NDArray[np.float16]


class Encoders:
    """CLIP, SAM and patch encoder of a config. `encode_photo` is pure: same photo, same bytes, whatever came before.

    That is on one kind of device, and on the CPU with one number of threads a photo: sums in another order round
    otherwise (SAM's predicted IoU by 5e-7, and once in a while a pixel of a mask is turned).

    times: where the time of all encode_photo calls went, by encoder, and how busy the device was.
    """

    def __init__(self, config: ConfigDict) -> None:
        """Reads clip, sam, encoder, encode, device, dtype, weights_dir. UserError as the loaders do."""
        common = config.weights_dir, config.device
        check_variants(config.clip.variants)
        self._clip = load_clip(config.clip, *common, config.dtype)
        say(compute.why_dtype(config.dtype, self._clip.device, self._clip.dtype, self._clip.width))
        dtype = compute.dtype_name(self._clip.dtype)  # what auto became for it is the others' dtype too
        self._views = ClipViews(config.clip, self._clip)
        self._sam = load_sam(config.sam, *common, dtype)
        self._patches = load_encoder(config, clip=self._clip, sam=self._sam)
        self._dtype = FEATURE_DTYPES[config.encode.feature_dtype]
        self._config = config
        self.times = StageTimes()
        self.busy = compute.busy(self._clip.device)
        self._clip.batches.busy = self._sam.busy = self._patches.busy = self.busy
        self.times.share("device busy", self.busy.share)

    @property
    def grid_hw(self) -> HW:
        """The fixed patch grid h, w of every photo."""
        return self._patches.grid_hw

    @property
    def feature_width(self) -> int:
        """D."""
        return self._patches.width

    @property
    def text_width(self) -> int:
        """E."""
        return self._clip.text_width

    def encode_photos(self, photos: Iterator[Photo]) -> Generator[PhotoRows, None, None]:
        """The rows of each photo, in order; several photos are in work at a time, each in a lane of compute.Lanes.

        How many does not change a byte, how many threads a lane has does: one, where there are up to 7 of them.
        """
        yield from compute.Lanes(self._clip.device).each(photos, self.encode_photo)

    def encode_photo(self, photo: Photo) -> PhotoRows:
        """The rows of one photo; the last is None where the photo has no label map."""
        image = photo.image
        size_hw = image.shape[0], image.shape[1]
        with self.times("encoder"):
            features = self._patches.features(image)
        with self.times("clip"):
            crops, boxes, dense = self._views.evidence(image, features)
        with self.times("sam"):
            masks = self._sam.masks(image)
        check_finite(photo.photo_id, {"crops": crops} | {f"dense maps {name}": each for name, each in dense.items()})
        row = feature_row(photo.photo_id, size_hw, features, self.grid_hw, self._dtype, thumbnail(image))
        return (
            row,
            EvidenceRow(photo.photo_id, size_hw, row.grid_hw, crops, boxes, dense, masks),
            None if photo.label_map is None else TruthRow(photo.photo_id, photo.label_map),
        )

    def identity(self) -> dict[str, Any]:
        """What the rows depend on besides the photo, as JSON: models, weight digests, preprocessing; no path."""
        fields = {name: self._config[name].to_dict() for name in ("clip", "sam", "encoder")}
        for name in ("clip", "sam"):
            fields[name].pop("batch_size")  # how much at a time, not what
        fields["encoder"] = encoder_settings(fields["encoder"])
        fields["clip"] |= self._clip.identity()
        fields["sam"] |= self._sam.identity()
        fields["encoder"] |= self._patches.identity()
        fields["clip"] |= {name: list(fields["clip"][name]) for name in ("crop_scales", "variants")}
        return {**fields, "dtype": compute.dtype_name(self._clip.dtype), "torch": torch.__version__.partition("+")[0]}


class ClipViews:
    """Where CLIP looks at a photo: overlapping crops at several scales for presence, windows for the dense maps."""

    def __init__(self, config: ConfigDict, clip: ClipEncoder) -> None:
        """config: `config.clip`. UserError when windows do not fit the model."""
        self._clip = clip
        self._variants = tuple(config.variants)
        self._scales = tuple(config.crop_scales)
        self._short, self._window, self._stride = config.short_side_px, config.window_px, config.stride_px
        patch = clip.patch_px
        if self._window % patch or self._window < patch:
            near = max(1, round(self._window / patch)) * patch
            raise UserError(
                f"clip.window_px = {self._window} is no multiple of the CLIP's patch of {patch} px; set {near}"
            )
        if self._short < self._window:
            raise UserError(
                f"clip.short_side_px = {self._short} is less than clip.window_px = {self._window}; raise it"
            )

    def evidence(self, image: Image, features: Floats) -> tuple[Halves, Floats, dict[str, Halves]]:
        """Crop embeddings float16 [n, E] with their boxes float32 [n, 4] as shares, and dense maps by variant.

        image: uint8 [H, W, 3]; features: float32 [h', w', D] of the photo's patches. A window of the dense maps that is
        also a crop goes through the tower once.
        """
        clip, size_hw = self._clip, (image.shape[0], image.shape[1])
        where = tile(size_hw, self._short, self._window, self._stride)
        frame = resize(image, where.frame_hw, clip.resample)
        dense, cls = window_maps(clip, frame, where, self._variants, features)
        crops = crop_windows(size_hw, clip.image_px, self._scales)
        embedded = dict(zip(where.keys(), cls, strict=True))
        fresh: dict[tuple[int, ...], Image] = {}
        for part in crops:
            view = resize(image, part.frame_hw, clip.resample)
            pixels = part.cut(view)
            fresh |= {key: pixels[i] for i, key in enumerate(part.keys()) if key not in embedded}
        if fresh:
            embedded |= dict(zip(fresh, clip.crops(np.stack(list(fresh.values()))), strict=True))
        boxes = {key: box for part in crops for key, box in zip(part.keys(), part.boxes(), strict=True)}
        rows = torch.stack([embedded[key] for key in boxes]).cpu().numpy()
        return rows.astype(np.float16), np.stack(list(boxes.values())), dense


class Needed(NamedTuple):
    """A model of the config and its file."""

    role: str
    name: str
    file: WeightFile

    def to_fetch(self) -> int:
        """Bytes that have still to come: of the parameters in float32; some files are stored smaller."""
        return 0 if self.file.local() else 4 * (self.file.parameters() or 0)


def needs(config: ConfigDict) -> list[Needed]:
    """The files of CLIP, SAM and the patch encoder, unless that is one of them. UserError for an unknown model."""
    folder, patches = config.weights_dir, trunks.weight_file(config)
    return [
        Needed("CLIP", f"{config.clip.name} {config.clip.pretrained}", clip.weight_file(config.clip, folder)),
        Needed("SAM", config.sam.name, sam.weight_file(config.sam, folder)),
        *([Needed("encoder", config.encoder.name, patches)] if patches else []),
    ]


def entry(need: Needed) -> str:
    """What is told of one file, a line a fact."""
    file, path = need.file, need.file.local()
    lines = {
        "model": f"{need.role} {need.name}",
        "file": str(path or file.saved_as) + ("" if path else "  MISSING"),
        "size": _size(need, path),
        "licence": file.licence,
        "source": file.source or "beside its model config",
    }
    if path is not None:
        lines["sha256"] = digest(path)[:16] + "..."
    return "\n".join(f"{name:8s} {text}" for name, text in lines.items())


def _size(need: Needed, path: Path | None) -> str:
    """Of the file that is there, else of its parameters; MB are 10^6 bytes."""
    if path is not None:
        return f"{path.stat().st_size / 1e6:.1f} MB"
    size = need.to_fetch()
    return f"about {size / 1e6:.0f} MB" if size else "unknown"
