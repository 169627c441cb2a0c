"""Your photos and your words, no annotation anywhere: copy this file, set the two lines marked <--, and run

    python -m labelgen.weights --config=configs/my_photos.py                          # downloads what it needs
    python -m labelgen.run     --config=configs/my_photos.py --out=data --limit=20    # a first look at twenty photos
    python -m labelgen.run     --config=configs/my_photos.py --out=data-all           # all of them
    python -m fmbseg_jax.train --config=configs/my_photos.py --data=data-all --workdir=run
    python -m fmbseg_jax.predict --workdir=run --photos=other_photos --out=masks      # also on photos never seen

Other words: edit the list, choose another labels.name below, run labelgen.run again: only the words' part is redone.
Other models: --config=configs/my_photos.py:fast, :balanced or :best in each of these lines (docs/presets.md has what
each takes); a DATA belongs to the models that began it. Without a name: the models of configs/default.py.
Hardware: a GPU to encode; without one, take :fast and some patience.
Expected time and score: not measured.
"""

from ml_collections import ConfigDict

# These are the real models; their weights are downloaded once, or lie in weights_dir. To try the program without
# them: `from configs.pocket import get_config as models` takes the miniature ones, which know twelve simple things.
from configs.default import get_config as models

VARIANTS = ("fast", "balanced", "best")


def get_config(preset: str = "") -> ConfigDict:
    """What differs from configs/default.py, which lists every field with a comment."""
    config = models()
    config.photos.root = "my_photos"  # <-- your folder of pictures; folders inside it are searched too
    config.ontology = "configs/words/my_photos.txt"  # <-- your words: one class a line, `name: word, word`

    # One split that holds every photo of the root. masks stays empty: nothing is annotated. Where you annotate some,
    # name a split for them too: its photos and masks are then none of this one.
    config.photos.splits = ConfigDict({"train": {"photos": "", "masks": ""}})
    config.labels.splits = ("train",)
    config.labels.name = "default"  # another list of words gets another name and goes beside it

    if preset:
        choose(config, preset)

    # Nothing to be compared with: `predict` shows what was learnt, `evaluate` needs annotated photos.
    config.eval.splits = ()
    config.eval.ontologies = ConfigDict()
    config.eval.groups = ConfigDict()
    return config


def choose(config: ConfigDict, preset: str) -> None:
    """The models of a preset: SAM 2.1, DINOv2 with registers, CLIP of OpenAI; all free for any use."""
    sam, encoder, clip = {
        "fast": ("tiny", "vit_small_patch14_reg4_dinov2.lvd142m", "ViT-B-16"),
        "balanced": ("base_plus", "vit_base_patch14_reg4_dinov2.lvd142m", "ViT-B-16"),
        "best": ("large", "vit_large_patch14_reg4_dinov2.lvd142m", "ViT-L-14"),
    }[preset]
    config.sam.name, config.sam.weights = f"sam2.1_hiera_{sam}", f"sam2.1_hiera_{sam}.pt"
    config.sam.pred_iou_threshold = 0.8  # as SAM 2's own generator of masks
    config.encoder.name, config.clip.name = encoder, clip
    if preset == "fast":
        config.sam.points_per_side = 16
        config.encoder.size_px = 448
        config.clip.variants = ("proxyclip",)  # the one that the labels use
        config.clip.crop_scales = (1.0, 0.5)  # presence of small things suffers
