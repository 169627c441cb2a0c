"""A RUN, the words that it is asked for, and whose a folder of masks then is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fmbseg_jax.inference.embedder import Embedder, Towers
from fmbseg_jax.inference.label_maps import Background, pixel_classes, sharpened_classes
from fmbseg_jax.inference.other_words import Asked
from fmbseg_jax.reporting.evaluation import class_names
from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import Restored, checksum, restore_run
from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology, class_scores, read_words
from labelgen.data.records import FeatureRow
from labelgen.formats.claimed import claim_folder
from labelgen.formats.classes import class_infos
from labelgen.formats.writers import ClassInfo
from labelgen.sources.photos import Photo

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Asking:
    """A RUN and the words that it is asked for."""

    restored: Restored
    towers: Towers
    vocabulary: Asked
    classes: Sequence[ClassInfo]
    threshold: float
    sharpen: bool
    embed: Embedder

    @staticmethod
    def of(
        workdir: str, weights_dir: str, words: str, threshold: float | None = None, sharpen: bool | None = None
    ) -> "Asking":
        """weights_dir, words: "" for those of the RUN; threshold (of background), sharpen: None for its settings.

        UserError for a RUN that cannot be restored, and for words that cannot be used.
        """
        restored = restore_run(workdir)
        towers = Towers(restored, weights_dir)
        if threshold is None:
            threshold = float(restored.config.eval.background_threshold)
        vocabulary = Asked(restored, *wanted_words(restored, towers, words))
        names, groups = class_names(vocabulary.ontology, threshold), restored.config.eval.get("groups", {})
        classes = class_infos(vocabulary.ontology, names, groups)
        if sharpen is None:
            sharpen = bool(restored.config.eval.get("sharpen", False))
        return Asking(restored, towers, vocabulary, classes, threshold, sharpen, Embedder(restored, batch_size=1))

    @property
    def background(self) -> Background | None:
        """What takes pixels whose best class is not probable."""
        return Background(self.threshold, self.restored.temperature) if self.threshold else None

    def made_by(self) -> dict[str, Any]:
        """What masks are made by."""
        return maker(self.restored, self.vocabulary, self.classes, self.threshold, self.sharpen)

    def patches(self, row: FeatureRow) -> tuple[NDArray[np.float32], NDArray[np.float32], tuple[int, ...]]:
        """Patches, prototypes and word_class of a photo, as `pixel_classes` takes them."""
        by_head = self.vocabulary.by_head
        return self.vocabulary(self.embed([row])[0], None if by_head else self.embed.dense(row))

    def label_map(self, row: FeatureRow, image: Pixels | None) -> NDArray[np.uint16]:
        """Class of each pixel [H, W]; sharpened where the picture is at hand."""
        answered = self.patches(row)
        if self.sharpen and image is not None:
            return sharpened_classes(*answered, image, self.restored.temperature, self.threshold)
        return pixel_classes(*answered, row.size_hw, None, self.background)

    def scores(self, image: Pixels) -> NDArray[np.float32]:
        """float32 [h, w, C] of a tile uint8 [H, W, 3]."""
        patches, prototypes, word_class = self.patches(self.towers.features(Photo("", image)))
        return class_scores(patches @ prototypes.T, word_class).astype(np.float32)


def maker(
    restored: Restored, vocabulary: Asked, classes: Sequence[ClassInfo], threshold: float, sharpen: bool
) -> dict[str, Any]:
    """What masks are made by, JSON-able: the head and the words."""
    return {
        "command": "fmbseg_jax.predict",
        "step": restored.step,
        "parameters (digest)": checksum(restored.params),
        "classes": ", ".join(info.name for info in classes),
        "words": vocabulary.ontology.to_json(),
        "background_threshold": threshold,
        **({"sharpened": True} if sharpen else {}),
    }


def claim(folder: Path, made_by: Mapping[str, Any], classes: Sequence[ClassInfo]) -> None:
    """Claims the folder of masks, for all hosts. UserError on all where it has what something else made."""
    refused = ""
    if hosts.is_first():
        try:
            claim_folder(folder, made_by, [info.name for info in classes])
        except UserError as error:
            refused = str(error)
    if refused := hosts.gather(refused)[0]:
        raise UserError(refused)


def wanted_words(restored: Restored, towers: Towers, words: str) -> tuple[Ontology, NDArray[np.float32]]:
    """The trained words, or those of a file: (ontology, float32 [K, E] unit rows by the RUN's text tower)."""
    if not words:
        return restored.ontology, restored.prototypes
    ontology = read_words(words)
    return ontology, towers.text(ontology.words)
