"""What a photo costs at real size: configs/voc.py from photos to figures, untrained models of the official shapes.

    python -m benchmarks.labelgen_real_size --out=FOLDER [--photos=3] [--device=cuda] [--config.sam.points_per_side=16]

Makes a few photos of 500 x 375 px in Pascal VOC's layout, fills CLIP ViT-L/14, SAM ViT-H and DINOv2 ViT-L/14 with
random weights (6 GB in FOLDER/weights, kept for the next time), runs each encoder alone in a process of its own for its
seconds and peak memory, then labelgen.run, train and evaluate as a user would. mIoU means nothing here, and SAM's masks
are not those of a trained one: what depends on their number (suppression, run lengths) is only about right.
Writes FOLDER/real_size.json.
"""

import argparse
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.files import write_json
from labelgen.core.shipped import HOME

CONFIG = "configs/voc.py"
SIZE_WH = (500, 375)
PARTS = ("dinov2", "clip", "sam")
WEIGHTS = {
    "clip": "ViT-L-14-openai.safetensors",
    "sam": "untrained_vit_h.pth",
    "dinov2": "untrained_vit_large_patch14_dinov2.safetensors",
}


def main(args: argparse.Namespace) -> int:
    """Measure the parts, then the commands."""
    out = Path(args.out).absolute()
    photos(out / "VOC2012", args.photos)
    fields = [
        f"photos.root={out / 'VOC2012'}",
        f"weights_dir={out / 'weights'}",
        f"sam.weights={WEIGHTS['sam']}",
        f"encoder.weights={WEIGHTS['dinov2']}",
        f"device={args.device}",
        "train.steps=20",
        "train.warmup_steps=2",
        "train.batch_size=2",
        "train.virtual_shards=1",
        "train.save_every=20",
        "train.holdout=0.5",
        *args.overrides,
    ]
    result: dict[str, Any] = {"photo px": list(SIZE_WH), "photos": args.photos, "cores": os.cpu_count()}
    for part in PARTS:
        alone(make_weights, part, out / "weights")
        result[part] = alone(measure, part, fields, args.photos)
        print(f"{part}: {json.dumps(result[part])}", flush=True)
    for name, more in (
        ("labelgen.run", [f"--out={out / 'data'}"]),
        ("fmbseg_jax.train", [f"--data={out / 'data'}", f"--workdir={out / 'run'}"]),
        ("fmbseg_jax.evaluate", [f"--data={out / 'data'}", f"--workdir={out / 'run'}"]),
    ):
        result[name] = alone(run, name, [*more, *(f"--config.{field}" for field in fields)])
        print(f"{name}: {json.dumps(result[name])}", flush=True)
    write_json(out / "real_size.json", result)
    print(f"wrote {out / 'real_size.json'}; the weights in {out / 'weights'} are of no use but for this")
    return 0


def alone(function: Any, *arguments: Any) -> Any:
    """What `function` returns in a new process, so that its peak memory is its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def photos(root: Path, count: int) -> None:
    """`count` photos of soft blobs in VOC's layout: train, the first val too; masks say which colour is strongest."""
    for folder in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        blobs = Image.fromarray(np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8)).resize(SIZE_WH)
        blobs.save(root / f"JPEGImages/{i:06}.jpg")
        Image.fromarray(np.array(blobs).argmax(2).astype(np.uint8)).save(root / f"SegmentationClass/{i:06}.png")
    for split, members in (("train", range(count)), ("val", range(1))):
        (root / f"ImageSets/Segmentation/{split}.txt").write_text("".join(f"{i:06}\n" for i in members))


def make_weights(part: str, folder: Path) -> None:
    """An untrained model of the official shape, saved under the name that the commands look for."""

    import torch
    from safetensors.torch import save_file

    from labelgen.models.libraries import open_clip, sam_model_registry, timm

    path = folder / WEIGHTS[part]
    if path.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    partial = path.with_suffix(".partial")
    if part == "sam":
        torch.save(sam_model_registry["vit_h"]().state_dict(), partial)
    else:
        model = (
            open_clip.create_model("ViT-L-14", pretrained=None)
            if part == "clip"
            else timm.create_model("vit_large_patch14_dinov2.lvd142m", pretrained=False, num_classes=0)
        )
        save_file({name: value.contiguous() for name, value in model.state_dict().items()}, partial)
    partial.rename(path)


def measure(part: str, fields: list[str], count: int) -> dict[str, Any]:
    """Seconds to load, seconds and processor seconds a photo (median), peak memory of one encoder alone."""
    import torch

    config = load_config(CONFIG, fields)
    start = time.perf_counter()
    encode, device = encoder(part, config)
    loaded = time.perf_counter() - start
    seconds, busy = [], []
    for path in sorted(Path(config.photos.root, "JPEGImages").iterdir())[:count]:
        image = np.array(Image.open(path))
        start, worked = time.perf_counter(), time.process_time()
        encode(image)
        seconds.append(time.perf_counter() - start)
        busy.append(time.process_time() - worked)
    gpu = device.type == "cuda"
    peak = torch.cuda.max_memory_allocated(device) if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "device": torch.cuda.get_device_name(device) if gpu else f"cpu, {torch.get_num_threads()} threads",
        "load_s": round(loaded, 1),
        "first_photo_s": round(seconds[0], 2),
        "photo_s": round(float(np.median(seconds[1:] or seconds)), 2),
        "photo_cpu_s": round(float(np.median(busy[1:] or busy)), 2),
        "peak_gb": round(peak / 1e9, 2),
    }


def encoder(part: str, config: ConfigDict) -> tuple[Any, Any]:
    """(what encodes a photo uint8 [H, W, 3], its device) of one part."""
    from labelgen.models.clip import load_clip
    from labelgen.models.sam import load_sam
    from labelgen.models.teachers import ClipViews
    from labelgen.models.trunks import load_encoder

    common = config.weights_dir, config.device, config.dtype
    if part == "sam":
        sam = load_sam(config.sam, *common)
        return sam.masks, sam.device
    if part == "dinov2":
        dino = load_encoder(config)
        return dino.features, dino.device
    clip = load_clip(config.clip, *common)
    views = ClipViews(config.clip, clip)
    features = np.random.default_rng(0).normal(size=(28, 37, 1024)).astype(np.float32)  # DINOv2's grid of such a photo
    return lambda image: views.evidence(image, features), clip.device


def run(module: str, arguments: list[str]) -> dict[str, Any]:
    """Seconds and peak memory of a command, and its last line."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", module, f"--config={CONFIG}", *arguments], cwd=HOME, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(f"{module} ended with {done.returncode}: {done.stderr[-2000:]}")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    last = done.stdout.strip().splitlines()[-1]
    return {"s": round(time.perf_counter() - start, 1), "peak_gb": round(peak / 1e9, 2), "said": last}


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", required=True, metavar="FOLDER", help="scratch, 6 GB; kept for the next time")
    flags.add_argument("--photos", type=int, default=3, metavar="N")
    flags.add_argument("--device", default="auto")
    flags.set_defaults(config=CONFIG)
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
