"""A VOC 2012 of six photos whose train has no truth, with configs/voc.py's own variants, on random small models."""

from pathlib import Path

from labelgen import run
from labelgen.core.command import command
from pocket.scenes import draw
from tests.worlds import tiny_models
from tests.worlds.voc_archives import jpg, png

TRAIN, VAL = [f"2007_{i:06}" for i in range(3)], [f"2008_{i:06}" for i in range(4)]
CONFIG = """
from configs.voc import get_config as voc

CHOSEN_BY = {{"head": "defaults", "labels": "nothing"}}
VARIANTS = ("voc21", "voc20", "threshold")

def get_config(variant):
    config = voc("voc20" if variant == "threshold" else variant)
    if variant == "threshold":
        config.eval.truth = {{}}
        config.eval.background_threshold = 0.06
    config.photos.root, config.weights_dir, config.device = {root!r}, {weights!r}, "cpu"
    config.clip.update(
        name="clip.json", pretrained="clip.safetensors", short_side_px=48, window_px=32, stride_px=16,
        crop_scales=(1.0,), variants=("maskclip", "proxyclip"),
    )
    config.sam.update(
        name="sam.json", weights="sam.safetensors", points_per_side=4, pred_iou_threshold=0.15,
        stability_threshold=0.6,
    )
    config.encoder.update(name="dinov2.json", weights="dinov2.safetensors", size_px=48)
    config.presence.threshold = config.masks.min_confidence = config.merge.min_confidence = 0.0
    config.train.update(
        steps=4, warmup_steps=1, batch_size=4, virtual_shards=4, patches_per_photo=8, log_every=2, save_every=2,
        holdout=0.3,
    )
    return config
"""


def write(folder: Path, variant: str) -> tuple[str, Path]:
    """(what --config is, DATA), encoded and labelled as launch/voc.sh does."""
    root = folder / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    for i, name in enumerate([*TRAIN, *VAL]):
        scene = draw(0, i, "train")
        (root / f"JPEGImages/{name}.jpg").write_bytes(jpg(scene.photo))
        if name in VAL:
            (root / f"SegmentationClass/{name}.png").write_bytes(png(scene.mask))
    for split, names in (("train", TRAIN), ("val", VAL)):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{name}\n" for name in names))
    weights = tiny_models.write(folder / "weights")
    (folder / "voc_small.py").write_text(CONFIG.format(root=str(root), weights=str(weights)))
    config = f"{folder}/voc_small.py:{variant}"
    assert command(run.main, run.arguments(), [f"--config={config}", f"--out={folder / 'data'}"]) == 0
    return config, folder / "data"
