"""Pascal VOC 2012: 20 classes with background by words (voc21, the default) or with background left out (voc20).

    python -m labelgen.weights    --config=configs/voc.py                            # fetch the three models first
    python -m labelgen.run        --config=configs/voc.py --out=data --config.photos.root=VOCdevkit/VOC2012
    python -m fmbseg_jax.train    --config=configs/voc.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/voc.py --data=data --workdir=run

The same DATA serves the other reading: label again with --config=configs/voc.py:voc20 and train into another RUN.
Hardware: a GPU to encode (the three models are 5.5 GB in float32); the head trains on anything.
Photos: 10,582 (trainaug) or 1,464 (train), 1,449 (val).
Expected time and score: not measured but on a CPU: 306 processor seconds a photo (benchmarks/README.md).
"""

from ml_collections import ConfigDict

from configs.default import get_config as default

VARIANTS = ("voc21", "voc20")


def get_config(variant: str = "voc21") -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = f"configs/words/{variant}.txt"
    config.labels.name = variant
    if variant == "voc20":
        config.eval.truth = ConfigDict({"background": "ignore"})

    config.photos.root = "VOCdevkit/VOC2012"
    config.photos.source = "voc"
    config.photos.splits = ConfigDict(
        {
            "train": {"photos": "trainaug|train", "masks": ""},  # the SBD list where it is, else VOC's own
            "val": {"photos": "val", "masks": "SegmentationClass"},
        }
    )
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    return config
