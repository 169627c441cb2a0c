"""Cityscapes: the 19 evaluated classes on photos of 2048 x 1024 px, seen by the encoder in windows.

    python -m labelgen.run        --config=configs/cityscapes.py --out=data --config.photos.root=cityscapes
    python -m fmbseg_jax.train    --config=configs/cityscapes.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/cityscapes.py --data=data --workdir=run

Truth: gtFine's labelIds, which the archive has; labelTrainIds where they were made.
Hardware: a GPU to encode (the three models are 5.5 GB in float32). Photos: 2,975 (train), 500 (val).
Features: 5.6 MB a photo.
Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default


def get_config() -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/cityscapes.txt"
    config.labels.name = "cityscapes"

    config.photos.root = "cityscapes"
    config.photos.source = "cityscapes"
    config.photos.splits = ConfigDict(
        {"train": {"photos": "train", "masks": ""}, "val": {"photos": "val", "masks": "labelIds"}}
    )
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    config.clip.short_side_px = 560  # as the peers do on this data set
    # every photo is twice as wide as high: a grid of 74 x 37 patches, windows of DINOv2's training size
    config.encoder.size_px, config.encoder.height_px = 1036, 518
    config.encoder.window_px, config.encoder.stride_px = 518, 252
    return config
