"""COCO panoptic categories as semantic classes: 80 things and 53 stuff of COCO 2017; truth from the panoptic PNGs.

    python -m labelgen.run        --config=configs/coco_panoptic.py --out=data --config.photos.root=coco
    python -m fmbseg_jax.train    --config=configs/coco_panoptic.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/coco_panoptic.py --data=data --workdir=run

Hardware: GPUs to encode 118,287 photos (--worker=i/n on each); --limit=5000 gives a first head. The features of all of
them are 330 GB. Evaluation: 5,000 photos. Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default


def get_config() -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/coco_panoptic.txt"
    config.labels.name = "coco_panoptic"

    config.photos.root = "coco"
    config.photos.source = "coco_panoptic"
    config.photos.splits = ConfigDict(
        {"train": {"photos": "train2017", "masks": ""}, "val": {"photos": "val2017", "masks": "panoptic_val2017"}}
    )
    config.encode.photos_per_shard = 512
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    return config
