"""CamVid as SegNet has it: 11 classes on frames of 480 x 360 px.

    python -m labelgen.run        --config=configs/camvid.py --out=data --config.photos.root=CamVid
    python -m fmbseg_jax.train    --config=configs/camvid.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/camvid.py --data=data --workdir=run

Hardware: a GPU to encode (the three models are 5.5 GB in float32). Photos: 367 (train), 101 (val), 233 (test).
Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default


def get_config() -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/camvid.txt"
    config.labels.name = "camvid"

    config.photos.root = "CamVid"
    config.photos.source = "camvid"
    config.photos.splits = ConfigDict(
        {"train": {"photos": "train", "masks": ""}, "test": {"photos": "test", "masks": "testannot"}}
    )
    config.eval.splits = ("test",)
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    config.encoder.size_px, config.encoder.height_px = 728, 546  # frames are 4 : 3
    return config
