"""The frozen encoders that a RUN was trained with, for photos and words that no DATA has. torch is loaded when used."""

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.embed import check_same_weights
from fmbseg_jax.runs.checkpoint import Restored
from labelgen.data.records import FEATURE_DTYPES, FeatureRow, feature_row
from labelgen.sources.photos import Photo

if TYPE_CHECKING:
    from labelgen.models.clip import ClipEncoder
    from labelgen.models.patch_encoder import PatchEncoder


class Towers:
    """The patch encoder and CLIP's text tower of a RUN; each is loaded at its first use and checked against the RUN."""

    def __init__(self, restored: Restored, weights_dir: str = "") -> None:
        """weights_dir: where the weights are now; empty: where they were in training."""
        self._restored = restored
        self._weights_dir = weights_dir or restored.config.weights_dir

    def load_patches(self) -> None:
        """Loads the patch encoder now, before anything is begun. UserError when its weights are not the RUN's."""
        _ = self._patches

    @cached_property
    def _patches(self) -> "PatchEncoder":
        from labelgen.models.trunks import load_encoder

        encoder = load_encoder(self._restored.config, self._weights_dir)
        check_same_weights(self._restored, "encoder", encoder.identity(), self._weights_dir)
        return encoder

    @cached_property
    def _clip(self) -> "ClipEncoder":
        from labelgen.models.clip import load_clip

        config = self._restored.config
        clip = load_clip(config.clip, self._weights_dir, config.device, config.dtype)
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
