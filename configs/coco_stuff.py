"""COCO-Stuff: 80 things and 91 stuff of COCO 2017, no background. Truth from json (default) or from pixel maps (maps).

    python -m labelgen.run        --config=configs/coco_stuff.py --out=data --config.photos.root=coco
    python -m fmbseg_jax.train    --config=configs/coco_stuff.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/coco_stuff.py --data=data --workdir=run

json: annotations/instances_val2017.json and stuff_val2017.json. maps (--config=configs/coco_stuff.py:maps):
stuffthingmaps/val2017/ID.png of the official archive, or ID_labelTrainIds.png as mmsegmentation writes them; the
names tell the two orders of labels apart. Peers evaluate on the pixel maps.
Hardware: GPUs to encode 118,287 photos (--worker=i/n on each); --limit=5000 gives a first head. The features of all of
them are 330 GB. Evaluation: 5,000 photos. Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default

VARIANTS = ("json", "maps")


def get_config(variant: str = "json") -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/coco_stuff.txt"
    config.labels.name = "coco_stuff"

    config.photos.root = "coco"
    config.photos.source = {"json": "coco", "maps": "coco_stuff"}[variant]
    masks = {"json": "instances+stuff", "maps": "stuffthingmaps"}[variant]
    config.photos.splits = ConfigDict(
        {"train": {"photos": "train2017", "masks": ""}, "val": {"photos": "val2017", "masks": masks}}
    )
    config.encode.photos_per_shard = 512
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    return config
