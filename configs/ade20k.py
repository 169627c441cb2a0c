"""ADE20K scene parsing: 150 classes, no background.

    python -m labelgen.run        --config=configs/ade20k.py --out=data --config.photos.root=ADEChallengeData2016
    python -m fmbseg_jax.train    --config=configs/ade20k.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/ade20k.py --data=data --workdir=run

Hardware: a GPU to encode (the three models are 5.5 GB in float32). Photos: 20,210 (training), 2,000 (validation).
Expected time and score: not measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default


def get_config() -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/ade20k.txt"
    config.labels.name = "ade20k"

    config.photos.root = "ADEChallengeData2016"
    config.photos.source = "ade20k"
    config.photos.splits = ConfigDict(
        {"train": {"photos": "training", "masks": ""}, "val": {"photos": "validation", "masks": "annotations"}}
    )
    config.encode.photos_per_shard = 256
    config.clip.name, config.clip.pretrained = "ViT-L-14", "openai"
    return config
