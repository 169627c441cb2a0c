"""The claims, in order."""

from collections.abc import Callable
from typing import NamedTuple

from experiments import (
    alignment,
    encoders,
    labels,
    little_data,
    losses,
    material,
    own_photos,
    stages,
    training,
    zero_shot,
)
from experiments.bench import Bench
from experiments.verdict import Claim


class Entry(NamedTuple):
    """A claim that can be tried."""

    title: str
    run: Callable[[Bench], Claim]


CLAIMS = {
    "labels": Entry("1. Free labels", labels.run),
    "stages": Entry("2. Stage 1.2 fixes what 1.1 misses", stages.run),
    "alignment": Entry("3. Alignment beats CLIP patch by patch", alignment.run),
    "encoders": Entry("4. Any encoder", encoders.run),
    "little_data": Entry("5. Little data", little_data.run),
    "training": Entry("6. Minimal training", training.run),
    "zero_shot": Entry("7. Zero-shot", zero_shot.run),
    "own_photos": Entry("8. Own photos", own_photos.run),
    "losses": Entry("9. Losses and head", losses.run),
    "material": Entry("10. One material in all its forms", material.run),
}
