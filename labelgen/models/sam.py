"""SAM by segment_anything, SAM 2.1: every mask that a regular grid of point prompts gives, once a photo, without words.

Data flow: config.sam + weights_dir -> a weight file, official (SAM, MobileSAM, SAM 2.1) or one's own, checked -> the
model. Then photo -> image embedding -> three masks a grid point -> MaskSet. Stage 1.1 later looks its point prompts up
in it, stage 1.2 names the ones marked `automatic`, which are those of SamAutomaticMaskGenerator.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from labelgen.core.download import Remote, download
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW, WORKING_PX, resize
from labelgen.core.threads import Busy
from labelgen.data.rle import MaskSet
from labelgen.models import compute, mobile_sam, sam2, sam_masks, sam_network, sam_outlines, weight_files
from labelgen.models.libraries import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
    batched_nms,
    build_point_grid,
    calculate_stability_score,
    sam_model_registry,
)
from labelgen.models.sam_masks import Bits, share
from labelgen.models.sam_network import PointDecoder
from labelgen.models.sam_outlines import ROW_PX
from labelgen.models.weight_files import WeightFile

T = TypeVar("T")
NEEDED = ("image_encoder", "prompt_encoder", "mask_decoder", "pixel_mean", "pixel_std")
"""What a model config must have."""

META = "https://dl.fbaipublicfiles.com/segment_anything/"
META2 = "https://dl.fbaipublicfiles.com/segment_anything_2/092824/"
MOBILE = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/"


class Release(NamedTuple):
    """An official weight file: its name, hex sha256 and the folder it is downloaded from."""

    file: str
    sha256: str
    folder: str

    @property
    def url(self) -> str:
        """SAM_ENDPOINT names another server that has the files, as HF_ENDPOINT does for the hub's."""
        folder = os.environ.get("SAM_ENDPOINT", self.folder)
        return f"{folder.rstrip('/')}/{self.file}"


RELEASES = {
    "vit_h": Release("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", META),
    "vit_l": Release("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", META),
    "vit_b": Release("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", META),
    "mobile_sam": Release("mobile_sam.pt", "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f", MOBILE),
} | {
    name: Release(f"{name}.pt", sha256, META2)
    for name, sha256 in zip(
        sam2.SIZES,
        (
            "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69",
            "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38",
            "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
            "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318",
        ),
        strict=True,
    )
}
"""sam.name -> its file. The six digits in Meta's names begin the file's md5; the sha256 here are those that projects
which download the files check them against (micro-sam for one)."""
STABILITY_OFFSET = 1.0
MIN_IOU = 0.5
"""Of a point's three masks the best is kept, the others only from this predicted IoU on."""
CHUNK_PX = 8_000_000
"""Pixels of full-size logits held at a time,"""
CACHED_PX = 2_000_000
"""and on the CPU."""
POINT_BYTES = 600  # a point's memory in a decoder pass, a pixel of its logits; above what was measured
FIX = "set sam.points_per_side or photos.max_pixels smaller, take a smaller SAM, or device=cpu"


class SamConfig(Protocol):
    """The fields of `config.sam` that load_sam reads (see configs/default.py)."""

    name: str
    weights: str
    sha256: str
    points_per_side: int
    pred_iou_threshold: float
    stability_threshold: float
    nms_threshold: float
    batch_size: int


@dataclass(frozen=True)
class Answers:
    """What SAM says to P prompts, n = 3 P masks. low: logits float32 [n, h, w], of the l x l those that the photo's
    depend on; iou: float32 [n] predicted IoU; input_hw: the part of the square input that the photo takes, px, all of
    it in SAM 2.1; size_hw: the photo."""

    low: Tensor
    iou: Tensor
    input_hw: HW
    size_hw: HW


class Drawn(NamedTuple):
    """Masks at the photo's size: boxes xyxy int64 [m, 4], stability float32 [m], run lengths where they were wanted."""

    boxes: Tensor
    stability: Tensor
    runs: list[NDArray[np.uint32]]


class Stored(NamedTuple):
    """Masks as a MaskSet holds them: their answer numbers [m], run lengths, boxes xyxy px [m, 4], stability [m]."""

    ids: NDArray[np.int64]
    runs: list[NDArray[np.uint32]]
    boxes: NDArray[np.float32]
    stability: NDArray[np.float32]


class SamEncoder:
    """A frozen SAM with its grid of point prompts."""

    def __init__(self, model: Sam, path: Path, config: SamConfig, device: torch.device, dtype: torch.dtype) -> None:
        self.model = compute.frozen(model, device)
        compute.narrow(self.model.image_encoder, dtype)
        self.path, self.config, self.device, self.dtype = path, config, device, dtype
        self.input_px: int = self.model.image_encoder.img_size
        self.stretched = isinstance(model, sam2.Sam2)
        self.low_px = 4 * self.model.prompt_encoder.image_embedding_size[0]  # l, of the decoder's answers
        products = dtype if device.type == "cpu" else torch.float32
        first = self.model.mask_decoder.obj_score_token if self.stretched else None
        self._decoder = PointDecoder(self.model.prompt_encoder, self.model.mask_decoder, products, first)
        upscaled_bytes = 4 * (self.input_px // 4) ** 2 * self.model.prompt_encoder.embed_dim // 8
        cached = min(64, max(1, compute.CACHED_BYTES // upscaled_bytes))
        self._prompts = compute.Batches("SAM", FIX, device, config.batch_size, on_cpu=cached)
        self._full = compute.Batches("SAM", FIX, device, CHUNK_PX)

    @property
    def busy(self) -> Busy:
        """Runs while the device has work of this encoder."""
        return self._prompts.busy

    @busy.setter
    def busy(self, busy: Busy) -> None:
        self._prompts.busy = self._full.busy = busy

    @compute.enough_memory("SAM", FIX)
    @torch.inference_mode()
    def masks(self, image: NDArray[np.uint8]) -> MaskSet:
        """Masks of a photo uint8 [H, W, 3]: the automatic ones and all others that some point needs.

        Near-identical masks (IoU at SAM's low resolution >= alike.LEAST) are stored once: the automatic one, else the
        one of highest predicted IoU. Empty ones are dropped, and a point's further ones of low predicted IoU (MIN_IOU).
        """
        points_xy = build_point_grid(self.config.points_per_side) * (image.shape[1], image.shape[0])
        answers = self.prompt(image, points_xy)
        automatic = self.automatic(answers)
        iou = answers.iou.cpu().numpy()
        by_point = iou.reshape(-1, 3)
        wanted = (by_point >= np.minimum(MIN_IOU, by_point.max(1, keepdims=True))).ravel()
        bits = self._low_bits(answers)
        bits[~wanted] = 0
        owner = share(bits, iou, automatic)
        stored = self._full_size(answers, np.unique(owner[owner >= 0]))
        number = np.full(len(owner) + 1, -1, np.int32)  # the last is that of owner -1: no mask
        number[stored.ids] = np.arange(len(stored.ids))
        return MaskSet(
            runs=np.concatenate([*stored.runs, np.zeros(0, np.uint32)]),
            offsets=np.cumsum([0, *map(len, stored.runs)], dtype=np.int64),
            size_hw=answers.size_hw,
            boxes=stored.boxes,
            iou=iou[stored.ids],
            stability=stored.stability,
            automatic=np.isin(stored.ids, automatic),
            points_xy=points_xy.astype(np.float32),
            point_masks=number[owner].reshape(-1, 3),
        )

    @torch.inference_mode()
    def prompt(self, image: NDArray[np.uint8], points_xy: NDArray[np.float64]) -> Answers:
        """Three masks for each point [P, 2] in the photo's px, as SamPredictor gives them."""
        size_hw = image.shape[0], image.shape[1]
        input_hw = self._input_hw(size_hw)
        features = self._embed(resize(image, input_hw, Image.Resampling.BILINEAR))
        scaled = compute.onto(points_xy * (input_hw[1] / size_hw[1], input_hw[0] / size_hw[0]), self.device)
        rows, columns = self._needed(input_hw)
        low = torch.empty(3 * len(scaled), rows, columns, device=self.device)
        iou = torch.empty(3 * len(scaled), device=self.device)

        def decode(part: range) -> None:
            # In place: collected, the results took several times their memory in a photo's thread, most likely because
            # they lay among what each pass frees and cut malloc's heap into pieces.
            into = slice(3 * part.start, 3 * part.stop)
            whole, iou[into] = self._decode(features, scaled[part.start : part.stop], (rows, columns))
            low[into] = whole[:, :rows, :columns]

        self._prompts.over(range(len(scaled)), decode, POINT_BYTES * self.low_px**2)
        return Answers(low, iou, input_hw, size_hw)

    def _input_hw(self, size_hw: HW) -> HW:
        if self.stretched:
            return self.input_px, self.input_px
        scale = self.input_px / max(size_hw)
        # a strip of 20,000 x 1 px would be less than a pixel high: one at least
        return max(1, int(size_hw[0] * scale + 0.5)), max(1, int(size_hw[1] * scale + 0.5))

    def _needed(self, input_hw: HW) -> HW:
        """Rows and columns of an answer that the photo's logits depend on: its own and, for their ends, one more. All
        where enlarging a part would not place its pixels exactly as enlarging the whole does."""
        step, rest = divmod(self.input_px, self.low_px)
        rows, columns = (self.low_px if rest else min(self.low_px, -(-side // step) + 1) for side in input_hw)
        return rows, columns

    def _embed(self, pixels: NDArray[np.uint8]) -> tuple[Tensor, ...]:
        """Image embedding float32 [1, C, g, g] of uint8 [h, w, 3] whose longest side is input_px; with SAM 2.1's finer
        maps where it has them."""
        image = torch.from_numpy(np.array(pixels)).to(self.device).permute(2, 0, 1)[None]
        with self.busy(), compute.autocast(self.device, self.dtype):
            prepared: Tensor = self.model.preprocess(image)
            if self.stretched:
                detail: sam2.Detail = self.model.image_encoder.detail(prepared)
                return detail
            return (sam_network.embed(self.model.image_encoder, prepared).float(),)

    def _decode(self, features: tuple[Tensor, ...], points: Tensor, needed: HW) -> tuple[Tensor, Tensor]:
        """Logits [3 n, h, w] or more and predicted IoU [3 n], float32, of points [n, 2] in input px; needed: h, w."""
        return self._decoder(features[0], points, features[1:], needed)

    def automatic(self, answers: Answers) -> NDArray[np.int64]:
        """The answers [n] that SamAutomaticMaskGenerator keeps with these thresholds, best predicted IoU first."""
        ids = torch.nonzero(answers.iou > self.config.pred_iou_threshold)[:, 0]
        parts = self._drawn(answers, ids, with_runs=False)
        if not parts:
            return np.zeros(0, np.int64)
        boxes, stability, _ = zip(*parts, strict=True)
        stable = torch.cat(stability) >= self.config.stability_threshold
        inclusive = torch.tensor([0, 0, 1, 1], device=self.device)  # the generator's boxes end at the last pixel
        ids, xyxy = ids[stable], (torch.cat(boxes)[stable] - inclusive).float()
        kept = batched_nms(xyxy, answers.iou[ids], torch.zeros_like(ids), self.config.nms_threshold)
        return np.asarray(ids[kept].cpu(), np.int64)

    def _drawn(self, answers: Answers, ids: Tensor, *, with_runs: bool) -> list[Drawn]:
        """These answers' masks at the photo's size, some at a time. Of a photo larger than the working size no pixel is
        made, which gives the same but for rounding at the threshold; others keep the bytes that they always had."""
        if max(answers.size_hw) > WORKING_PX:
            return self._outlined(answers, ids)
        threshold = self.model.mask_threshold

        def draw(logits: Tensor) -> Drawn:
            runs = sam_masks.encode(logits > threshold) if with_runs else []
            return Drawn(sam_masks.extent(logits, threshold), self._stability(logits), runs)

        return self._upscaled(answers, ids, draw)

    def _outlined(self, answers: Answers, ids: Tensor) -> list[Drawn]:
        """The same by sam_outlines, whatever the photo's size."""
        size_hw, threshold = answers.size_hw, self.model.mask_threshold

        def draw(part: Tensor) -> Drawn:
            logits = self._at_input(answers, part)[:, 0]
            runs = sam_outlines.run_lengths(logits, threshold, size_hw)
            inner, outer = (
                torch.from_numpy(sam_outlines.areas(logits, threshold + offset, size_hw))
                for offset in (STABILITY_OFFSET, -STABILITY_OFFSET)
            )
            boxes = torch.tensor([sam_outlines.extent(mask, size_hw) for mask in runs], device=self.device)
            return Drawn(boxes, (inner / outer).to(self.device), runs)  # as calculate_stability_score

        return self._full.over(ids, draw, most=self._at_a_time(self._large_hw(answers), (size_hw[0], ROW_PX)))

    def _upscaled(self, answers: Answers, ids: Tensor, run: Callable[[Tensor], T]) -> list[T]:
        """What `run` makes of the logits at the photo's size, float32 [m, H, W], some at a time."""

        def upscale(part: Tensor) -> T:
            within = self._at_input(answers, part)
            return run(F.interpolate(within, answers.size_hw, mode="bilinear", align_corners=False)[:, 0])

        return self._full.over(ids, upscale, most=self._at_a_time(self._large_hw(answers), answers.size_hw))

    def _at_input(self, answers: Answers, ids: Tensor) -> Tensor:
        """Logits float32 [m, 1, h, w] at the size of the input, of the part that the photo takes; then enlarged to the
        photo's size they are Sam.postprocess_masks of the whole answers. SAM 2.1's at their own size: they are enlarged
        once, as SAM2Transforms.postprocess_masks does it."""
        if self.stretched:
            return answers.low[ids][:, None]
        large_hw, (height, width) = self._large_hw(answers), answers.input_hw
        large = F.interpolate(answers.low[ids][:, None], large_hw, mode="bilinear", align_corners=False)
        return large[..., :height, :width]

    def _large_hw(self, answers: Answers) -> list[int]:
        sides = list(answers.low.shape[1:])
        return sides if self.stretched else [side * self.input_px // self.low_px for side in sides]

    def _at_a_time(self, *sizes_hw: Sequence[int]) -> int:
        """Masks of a part, by the pixels of the largest size that it has on its way."""
        px = CACHED_PX if self.device.type == "cpu" else CHUNK_PX
        return max(1, px // max(height * width for height, width in sizes_hw))

    def _stability(self, logits: Tensor) -> Tensor:
        """float32 [m]: how little the masks of logits [m, H, W] change with the threshold."""
        score: Tensor = calculate_stability_score(logits, self.model.mask_threshold, STABILITY_OFFSET)
        return score

    def _low_bits(self, answers: Answers) -> Bits:
        """The masks at SAM's resolution within the photo, 64 pixels a word: uint64 [n, words]."""
        rows, columns = (-(-length * self.low_px // self.input_px) for length in answers.input_hw)
        within, threshold = answers.low[:, :rows, :columns], self.model.mask_threshold
        limit = self._at_a_time((rows, columns))
        parts = self._full.over(within, lambda part: sam_masks.words(part > threshold), most=limit)
        return torch.cat(parts).cpu().numpy().view(np.uint64)

    def _full_size(self, answers: Answers, ids: NDArray[np.int64]) -> "Stored":
        """Those of these answers that have a pixel, at the photo's size."""
        parts = self._drawn(answers, torch.from_numpy(ids).to(self.device), with_runs=True)
        if not parts:
            return Stored(ids, [], np.zeros((0, 4), np.float32), np.zeros(0, np.float32))
        boxes, stability, runs = zip(*parts, strict=True)
        flat = [run for part in runs for run in part]
        there = np.array([len(run) > 1 for run in flat])  # one run alone: of zeros
        xyxy, scores = (torch.cat(tensors).cpu().numpy()[there] for tensors in (boxes, stability))
        return Stored(ids[there], list(compress(flat, there)), xyxy.astype(np.float32), scores)

    def identity(self) -> dict[str, Any]:
        """What the masks depend on, as JSON: weight digest, size and normalisation of the pixels."""
        return {
            "weights": self.path.name,
            "sha256": weight_files.digest(self.path),
            "input_px": self.input_px,
            "mean": self.model.pixel_mean.flatten().tolist(),
            "std": self.model.pixel_std.flatten().tolist(),
        }


def load_sam(config: SamConfig, weights_dir: str | Path, device: str, dtype: str) -> SamEncoder:
    """A published SAM (RELEASES: vit_h, sam2.1_hiera_tiny ...), or one of a model config and weights in weights_dir.

    UserError when the name or file is not there, when the digest is another, or when the file is of another model.
    """
    on = compute.torch_device(device)
    path = weight_files.find(weight_file(config, weights_dir))
    if config.name.endswith(".json"):
        with weight_files.building(str(Path(weights_dir, config.name))):
            model = _build(weight_files.read_config(weights_dir, config.name, NEEDED))
        weight_files.load_state(model, path, config.name)
    else:
        model = _official(config.name, path)
    return SamEncoder(model, path, config, on, compute.torch_dtype(dtype, on))


def _official(name: str, path: Path) -> Sam:
    """The published model of that name, with the weights of a file."""
    if name in sam2.SIZES:
        return sam2.load(name, path)
    if name == "mobile_sam":
        return mobile_sam.load(path)
    model = sam_model_registry[name]()
    weight_files.load_state(model, path, f"{name}, whose file is {RELEASES[name].file}")
    return model


def _build(described: dict[str, Any]) -> Sam:
    """The Sam of these constructor arguments, untrained."""
    decoder = dict(described["mask_decoder"])
    decoder["transformer"] = TwoWayTransformer(**decoder["transformer"])
    return Sam(
        ImageEncoderViT(**described["image_encoder"]),
        PromptEncoder(**described["prompt_encoder"]),
        MaskDecoder(**decoder),
        described["pixel_mean"],
        described["pixel_std"],
    )


class Wanted(Protocol):
    """The fields of `config.sam` that say which file is meant."""

    name: str
    weights: str
    sha256: str


@dataclass(frozen=True, kw_only=True)
class ReleaseFile(WeightFile):
    """The file of one of RELEASES, by its name there; `custom`: somebody's training of that architecture instead."""

    name: str
    custom: bool

    def fetch(self) -> Path | None:
        if self.custom:
            return None
        return from_url(RELEASES[self.name].url, self.saved_as, self.sha256 or self.official)

    def parameters(self) -> int:
        if self.name in sam2.SIZES:
            return compute.parameters(lambda: sam2.build(self.name)) + sam2.VIDEO_PARAMETERS
        return compute.parameters(mobile_sam.build if self.name == "mobile_sam" else sam_model_registry[self.name])


def weight_file(config: Wanted, weights_dir: str | Path) -> WeightFile:
    """The file of config.sam: an official one, somebody's own training of such a model, or that of a model config.

    UserError for a name that there is not, and for the official file of another model.
    """
    if config.name.endswith(".json"):
        fields = weight_files.read_config(weights_dir, config.name, NEEDED)
        return weight_files.described(weights_dir, config.weights, config.sha256, fields)
    if config.name not in RELEASES:
        raise UserError(
            f"sam.name = {config.name!r}; choose one of {', '.join(RELEASES)}, or name a *.json in weights_dir"
        )
    release, path = RELEASES[config.name], Path(weights_dir, config.weights)
    _refuse_another(config, release)
    custom = config.weights != release.file
    official = "" if custom else release.sha256
    return ReleaseFile(
        path.parent, [path.name], config.sha256, "Apache-2.0", release.url, official, name=config.name, custom=custom
    )


def _refuse_another(config: Wanted, release: Release) -> None:
    owner = next((name for name, known in RELEASES.items() if known.file == config.weights), config.name)
    if owner != config.name:
        raise UserError(
            f"sam.weights = {config.weights!r} is the file of {owner}, but sam.name = {config.name!r}; "
            f"set sam.weights = {release.file!r}, or sam.name = {owner!r}"
        )


def from_url(url: str, path: Path, sha256: str) -> Path:
    """Downloads a file; under its name only when it is whole. A broken download goes on where it was.

    UserError when it cannot be had, or is not the file of that sha256 (any, where empty).
    """
    return download(Remote(url, sha256 and f"sha256:{sha256}"), path)
