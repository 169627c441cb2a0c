"""PASCAL-Context: 59 classes with the rest left out (context59, the default) or with background (context60).

    python -m labelgen.run        --config=configs/context.py --out=data --config.photos.root=VOCdevkit/VOC2010
    python -m fmbseg_jax.train    --config=configs/context.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/context.py --data=data --workdir=run

The same DATA serves the other reading: label again with --config=configs/context.py:context60. docs/datasets.md says
how SegmentationClassContext and its lists are made from the published annotations.
Hardware: a GPU to encode (the three models are 5.5 GB in float32). Photos: 4,998 (train), 5,105 (val).
Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default

VARIANTS = ("context59", "context60")


def get_config(variant: str = "context59") -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = f"configs/words/{variant}.txt"
    config.labels.name = variant
    if variant == "context59":
        config.eval.truth = ConfigDict({"background": "ignore"})

    config.photos.root = "VOCdevkit/VOC2010"
    config.photos.source = "context"
    config.photos.splits = ConfigDict(
        {"train": {"photos": "train", "masks": ""}, "val": {"photos": "val", "masks": "SegmentationClassContext"}}
    )
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    return config
