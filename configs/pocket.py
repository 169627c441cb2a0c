"""The pocket world: miniature models that ship with the project, on scenes that it draws. Two cores, minutes.

    python -m pocket.scenes       --out=scenes
    python -m labelgen.run        --config=configs/pocket.py --out=data
    python -m fmbseg_jax.train    --config=configs/pocket.py --data=data --workdir=run
    python -m fmbseg_jax.evaluate --config=configs/pocket.py --data=data --workdir=run

Expected time and score: see the README's table, which says where they were measured.
"""

from ml_collections import ConfigDict

from configs.default import get_config as default

CHOSEN_BY = {
    "labels": "truth of 60 photos of train",
    "head": "truth of train photos held out (tune), else defaults",
}
"""What the settings below were chosen by; experiments.claims prints it in each row."""


def get_config() -> ConfigDict:
    """What differs from configs/default.py."""
    config = default()
    config.ontology = "configs/words/pocket.txt"
    config.weights_dir = "pocket/weights"
    config.photos.root = "scenes"
    config.photos.splits = ConfigDict(
        {split: {"photos": f"photos/{split}", "masks": f"masks/{split}"} for split in ("train", "eval", "held_out")}
    )
    config.encode.photos_per_shard = 50

    config.clip.name = "clip.json"
    config.clip.pretrained = "clip.safetensors"
    config.clip.short_side_px = 192
    config.clip.window_px = 96
    config.clip.stride_px = 48
    config.clip.crop_scales = (1.0, 0.5, 0.33)

    config.sam.name = "sam.json"
    config.sam.weights = "sam.safetensors"
    config.sam.points_per_side = 12
    config.sam.pred_iou_threshold = 0.6  # a small SAM is less sure of itself
    config.sam.stability_threshold = 0.4

    config.encoder.name = "dinov2.json"
    config.encoder.weights = "dinov2.safetensors"
    config.encoder.size_px = 192

    config.labels.splits = ("train",)
    config.train.loss = "t_supcon"
    config.train.supcon_samples = 256  # tune: .784 as with 1024, in half the time
    config.train.supcon_prototype_weight = 10.0
    config.train.temperature = 0.1
    config.train.class_balance = 0.0
    config.train.steps = 300
    config.train.save_every = 50

    config.eval.refine_min_iou = 0.9  # of the small SAM's masks only the surest vote
    config.eval.splits = ("eval", "held_out")
    config.eval.ontologies = ConfigDict({"held_out": "configs/words/pocket_held_out.txt"})
    config.eval.groups = ConfigDict(
        {
            "stuff": ("grass", "sand", "water", "brick", "sky", "wood"),
            "things": ("ball", "star", "ring", "box", "flag", "house"),
        }
    )
    return config
