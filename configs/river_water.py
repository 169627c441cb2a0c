"""Water in all its names against everything else: any folder of photos with black-and-white masks (white is water).

    python -m labelgen.run        --config=configs/river_water.py --out=data --config.photos.root=FOLDER
    python -m fmbseg_jax.train    --config=configs/river_water.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/river_water.py --data=data --workdir=run

FOLDER has Image/ID.jpg and Mask/ID.png. The photos are labelled for free, trained on and evaluated ("own photos"):
no mask is read before evaluation. Of several folders, name the unseen ones as a split of their own.
Hardware: a GPU to encode (the three models are 5.5 GB in float32), or a CPU and patience.
Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default


def get_config() -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/river_water.txt"
    config.labels.name = "river_water"
    config.eval.truth = ConfigDict({"foreground": "water"})

    config.photos.root = "water"
    config.photos.source = "black_and_white"
    config.photos.splits = ConfigDict({"photos": {"photos": "Image", "masks": "Mask"}})
    config.labels.splits = ("photos",)
    config.train.split = "photos"
    config.eval.splits = ("photos",)
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    return config
