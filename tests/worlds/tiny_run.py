"""A RUN of a random linear head over tiny_models, and pictures for it."""

from pathlib import Path

import numpy as np
from PIL import Image

from labelgen.core.ontology import parse_words
from labelgen.models.clip import load_clip
from labelgen.models.trunks import load_timm
from tests.worlds import tiny_models
from tests.worlds.run import write_run

WORDS = parse_words(["ball", "box: box, crate"], "words")
KERNEL = np.random.default_rng(0).normal(size=(32, 24))


def write(folder: Path, weights: Path) -> Path:
    """RUN in `folder`; weights: what tiny_models.write wrote."""
    config = tiny_models.config(weights)
    common = (config.weights_dir, config.device, config.dtype)
    clip, encoder = load_clip(config.clip, *common), load_timm(config.encoder, *common)
    prototypes = clip.text(WORDS.words, config.labels.templates)
    identities = {"clip": clip.identity(), "encoder": encoder.identity()}
    return write_run(folder, config, KERNEL, WORDS, prototypes, identities)


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    """Large spots of random colours."""
    coarse = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (4, 5, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)
