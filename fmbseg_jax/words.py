"""The words by which the photos of a split are asked for: those of the training, or other ones for the same classes."""

from dataclasses import dataclass

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from fmbseg_jax.runs.checkpoint import Restored
from labelgen.core.errors import UserError
from labelgen.core.files import read_json
from labelgen.core.ontology import Ontology, read_words
from labelgen.data.dataset import Dataset, read_prototypes


@dataclass(frozen=True)
class Words:
    """What the photos of a split are asked for: prototypes are float32 [K, E] unit rows."""

    ontology: Ontology
    prototypes: NDArray[np.float32]
    source: str


def split_words(data: Dataset, restored: Restored, config: ConfigDict, split: str) -> Words:
    """The words of a split: those of eval.ontologies, which labelgen.run embedded into DATA, or the trained ones."""
    source = config.eval.ontologies.get(split, "")
    if not source:
        return Words(restored.ontology, restored.prototypes, "as trained")
    ontology = read_words(source)
    if ontology.names != restored.ontology.names:
        raise UserError(
            f"{source}: its classes are {', '.join(ontology.names)}; eval.ontologies.{split} needs other words of the "
            f"same classes in the same order: {', '.join(restored.ontology.names)}"
        )
    folder = data.path / "labels" / config.labels.name / f"words-{split}"
    mend = f"run labelgen.run --stage=label with eval.ontologies.{split}={source}"
    if read_json(folder / "ontology.json", mend) != ontology.to_json():
        raise UserError(f"{folder}: embeds other words than {source} has now; {mend}")
    prototypes = read_prototypes(folder / "prototypes.npy", len(ontology.words), data.text_width)
    return Words(ontology, prototypes, f"other words of the same classes: {source}")
