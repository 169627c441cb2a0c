"""The encoders and the head that a RUN was trained with: a photo to patch features to embeddings in CLIP's text space.

`Towers` are the frozen encoders, for photos and words that no DATA has; torch is loaded when they are used. `Embedder`
is the trained head as a function of rows, those of DATA or those that `Towers` make.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from fmbseg_jax.runs.checkpoint import Restored
from fmbseg_jax.runs.dense_map import densely_embedded
from fmbseg_jax.runs.head import Head
from labelgen.core.errors import UserError
from labelgen.core.geometry import HW
from labelgen.data.dataset import Dataset
from labelgen.data.records import FEATURE_DTYPES, FeatureRow, feature_row
from labelgen.sources.photos import Photo

if TYPE_CHECKING:
    from labelgen.models.clip import ClipEncoder
    from labelgen.models.patch_encoder import PatchEncoder


Array = NDArray[np.float32]
_SAME = {
    "encoder": ("sha256", "size_px", "height_px", "window_px", "stride_px", "patch_px", "layers", "join"),
    "clip": ("sha256", "patch_px"),
}
"""What the head's input and output depend on, of each encoder's identity()."""


class Towers:
    """The patch encoder and CLIP's text tower of a RUN; each is loaded at its first use and checked against the RUN."""

    def __init__(self, restored: Restored, weights_dir: str = "") -> None:
        """weights_dir: where the weights are now; empty: where they were in training."""
        self._restored = restored
        self._weights_dir = weights_dir or restored.config.weights_dir

    def load_patches(self) -> None:
        """Loads the patch encoder now, before anything is begun. UserError when its weights are not the RUN's."""
        _ = self._patches

    @property
    def grid_hw(self) -> HW:
        """The patch grid h, w of a tile."""
        return self._patches.grid_hw

    @property
    def patch_px(self) -> int:
        """Of the encoder's input, px a patch."""
        return self._patches.patch_px

    @cached_property
    def _patches(self) -> "PatchEncoder":
        from labelgen.models.trunks import load_encoder

        encoder = load_encoder(self._restored.config, self._weights_dir)
        check_same_weights(self._restored, "encoder", encoder.identity(), self._weights_dir)
        return encoder

    @cached_property
    def _clip(self) -> "ClipEncoder":
        from labelgen.models.clip import TEXT_DTYPE, load_clip

        config = self._restored.config
        clip = load_clip(config.clip, self._weights_dir, config.device, TEXT_DTYPE)
        check_same_weights(self._restored, "clip", clip.identity(), self._weights_dir)
        return clip

    def features(self, photo: Photo) -> FeatureRow:
        """The row that labelgen would have written of this photo."""
        dtype = FEATURE_DTYPES[self._restored.config.encode.feature_dtype]
        return feature_row(
            photo.photo_id, photo.image.shape[:2], self._patches.features(photo.image), self._patches.grid_hw, dtype
        )

    def text(self, words: Sequence[str]) -> NDArray[np.float32]:
        """float32 [K, E] unit rows of words, in the templates of the RUN."""
        return self._clip.text(words, self._restored.config.labels.templates)


def embedding(head: Head) -> Any:
    """The jitted head: parameters, features [b, h, w, D], valid bool [b, h, w] -> unit rows float32 [b, h, w, E]."""
    return jax.jit(lambda params, features, valid: head.apply({"params": params}, features, valid))


class Embedder:
    """The head of a RUN, compiled once for a batch of fixed size and grid; a short batch is filled up."""

    def __init__(self, restored: Restored, batch_size: int) -> None:
        head = restored.head_module(jax.default_backend())
        self._apply, self._params = embedding(head), jax.device_put(restored.params)
        self._batch_size, self._dense_map = batch_size, restored.dense_map

    def __call__(self, rows: Sequence[FeatureRow]) -> list[Array]:
        """Unit rows float32 [h', w', E] of each photo's valid patches. At most batch_size rows, of one grid.

        UserError where they are not finite.
        """
        first = rows[0].features
        features = np.zeros((self._batch_size, *first.shape), first.dtype)
        valid = np.zeros((self._batch_size, *first.shape[:2]), bool)
        for i, row in enumerate(rows):
            features[i] = row.features
            valid[i, : row.grid_hw[0], : row.grid_hw[1]] = True
        z = np.asarray(self._apply(self._params, features, valid))
        return [_finite(row, z[i, : row.grid_hw[0], : row.grid_hw[1]]) for i, row in enumerate(rows)]

    def dense(self, row: FeatureRow) -> Array:
        """Unit rows float32 [h', w', E] of a photo's valid patches by the RUN's dense map, if it has one."""
        if self._dense_map is None:
            raise ValueError("this RUN has no dense map")
        return densely_embedded(row, self._dense_map)


def _finite(row: FeatureRow, z: Array) -> Array:
    if np.isfinite(z).all():
        return z
    if not row.finite:
        raise UserError(f"{row.photo_id}: its patch features are not finite; encode again with --config.dtype=float32")
    raise UserError(f"{row.photo_id}: the head's output is not finite; its parameters are broken: train again")


def check_fits(restored: Restored, data: Dataset) -> None:
    """UserError unless `data` was encoded by the encoders that the RUN was trained with."""
    for name in ("encoder", "clip"):
        check_same_weights(restored, name, data.info["encoders"][name], str(data.path))


def check_same_weights(restored: Restored, name: str, identity: Mapping[str, Any], source: str) -> None:
    """UserError unless encoder `name` (its identity()) is the one that the RUN was trained with.

    source: where that comes from, for the message.
    """
    trained = restored.encoders[name]
    for field in _SAME[name]:
        if identity.get(field) != trained.get(field):
            raise UserError(
                f"{source}: {name}.{field} is {identity.get(field)} ({identity['weights']}), but the RUN was trained "
                f"with {trained.get(field)} ({trained['weights']}); take that one, or train again with this one"
            )


class Teacher(NamedTuple):
    """A frozen model that a RUN was taught by, or needs."""

    role: str
    name: str
    licence: str
    """As its publisher states it; "" where that is not known here."""
    source: str
    """Where its weights come from; "" where that is not known."""
    sha256: str


def teachers(restored: Restored) -> list[Teacher]:
    """CLIP, SAM and the patch encoder of a RUN. Reads no weights; what only a missing package knows stays unknown."""
    config = restored.config
    names = {"CLIP": f"{config.clip.name} {config.clip.pretrained}", "SAM": config.sam.name}
    found = []
    for role, name in (names | {"encoder": config.encoder.name}).items():
        identity = restored.encoders.get(role.lower(), {})
        found.append(Teacher(role, name, *_published(role, config), identity.get("sha256", "")))
    return found


def _published(role: str, config: ConfigDict) -> tuple[str, str]:
    """Licence and source of a model's weight file, as far as they are known here."""
    try:
        from labelgen.models import clip, sam, trunks, weight_files

        folder = config.weights_dir
        if role == "encoder":
            file = trunks.weight_file(config)
        else:
            file = clip.weight_file(config.clip, folder) if role == "CLIP" else sam.weight_file(config.sam, folder)
    except (ModuleNotFoundError, UserError):
        return "", ""
    if file is None:  # the encoder is CLIP or SAM, which has a line of its own
        return f"that of {config.encoder.name}", ""
    return "" if file.licence == weight_files.UNKNOWN_LICENCE else file.licence, file.source
