"""Photos a second of the encoder beside the same models driven the ordinary way, in turns, a process each.

    python -m benchmarks.labelgen_throughput --photos=8 --repeats=3 [--size=pocket|b|official] [--out=F.json]
    python -m benchmarks.labelgen_throughput --size=b --cores=1 --scratch=FOLDER --config.sam.points_per_side=16

Ordinary: SamAutomaticMaskGenerator photo by photo, open_clip's encode_image crop by crop and window by window (dense
maps would cost more), timm photo by photo. Ours: labelgen.models.teachers.Encoders.encode_photos, with dense maps and
every mask that a point needs. Photos of 500 x 375 px, soft blobs; `b` and `official` have random weights, kept in
--scratch (1 and 6 GB), so few of SAM's masks pass the thresholds and what is done to masks afterwards hardly counts.
Models are loaded and one photo is encoded before the clock starts. --worker=SIDE is how the command calls itself.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import gettempdir
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray
from PIL import Image

from benchmarks.setting import fresh_process, median, publish, spread, table
from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.progress import StageTimes

SIZE_WH = (500, 375)
SIDES = ("ordinary", "ours")
MODELS = {
    "b": ("ViT-B-16", "vit_b", "vit_base_patch14_dinov2.lvd142m"),
    "official": ("ViT-L-14", "vit_h", "vit_large_patch14_dinov2.lvd142m"),
}
Photo = NDArray[np.uint8]


def main(args: argparse.Namespace) -> int:
    """Measure both sides in turns and print the table."""
    if args.worker:
        print(json.dumps(measure(args.worker, settings(args), args.photos)))
        return 0
    if args.size != "pocket":
        write_weights(Path(args.scratch), *MODELS[args.size])
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    same = [f"--{name}={getattr(args, name)}" for name in ("size", "photos", "scratch", "device")]
    same += [f"--config.{override}" for override in args.overrides]
    for _ in range(args.repeats):
        for side in SIDES:
            done = fresh_process("benchmarks.labelgen_throughput", [*same, f"--worker={side}"], args.cores)
            results[side].append(json.loads(done.out.splitlines()[-1]))
            print(f"{side}: {done.out.splitlines()[-1]}", file=sys.stderr, flush=True)
    publish(args, {"sides": results}, report(results))
    return 0


def report(results: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a row a side, then the ratios."""
    rows = [
        [
            side,
            spread([run["photos_s"] for run in runs]),
            spread([run["cpu_s"] for run in runs]),
            ", ".join(f"{stage} {median([run['stages'][stage] for run in runs]):.3g}" for stage in runs[0]["stages"]),
            f"{max(run['peak_gb'] for run in runs):.2f}",
            f"{median([run['busy'] for run in runs]):.0%}" if runs[0]["busy"] else "not measured",
        ]
        for side, runs in results.items()
    ]
    pairs = list(zip(results["ours"], results["ordinary"], strict=True))
    clock = spread([ours["photos_s"] / theirs["photos_s"] for ours, theirs in pairs])
    processor = spread([theirs["cpu_s"] / ours["cpu_s"] for ours, theirs in pairs])
    heads = ["side", "photos/s", "processor s a photo", "s a photo by stage, all threads", "peak GB", "device busy"]
    hours = 1e6 / median([run["photos_s"] for run in results["ours"]]) / 3600
    return (
        f"{table(heads, rows)}\n\nours / ordinary: photos/s **{clock}**, processor time {processor}; "
        f"a million photos are {hours:,.0f} hours of this machine"
    )


def settings(args: argparse.Namespace) -> ConfigDict:
    """The config of this size, with the command line's fields."""
    device = f"device={args.device}"
    if args.size == "pocket":
        return load_config("configs/pocket.py", [device, *args.overrides])
    clip, sam, dino = MODELS[args.size]
    files = [f"weights_dir={args.scratch}", f"clip.name={clip}", f"sam.name={sam}", f"encoder.name={dino}"]
    files += [f"sam.weights={sam}.pth", f"encoder.weights={dino}.safetensors"]
    return load_config("configs/default.py", [device, *files, *args.overrides])


def write_weights(folder: Path, clip: str, sam: str, dino: str) -> None:
    """Untrained models under the names that the loaders look for."""

    import torch
    from torch import nn

    from labelgen.models.libraries import open_clip, sam_model_registry, timm

    builders: dict[str, Callable[[], nn.Module]] = {
        f"{clip}-openai.safetensors": lambda: open_clip.create_model(clip, pretrained=None),
        f"{sam}.pth": lambda: sam_model_registry[sam](),
        f"{dino}.safetensors": lambda: timm.create_model(dino, pretrained=False, num_classes=0),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, build in builders.items():
        if not (folder / name).exists():
            torch.manual_seed(0)
            save(build(), folder / name)


def save(model: Any, path: Path) -> None:
    """The model's weights as safetensors or, by its name, as torch does."""
    import torch
    from safetensors.torch import save_file

    partial = path.with_suffix(".partial")
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    torch.save(state, partial) if path.suffix == ".pth" else save_file(state, partial)
    partial.rename(path)


def photos(count: int) -> list[Photo]:
    """uint8 [375, 500, 3] each."""
    blobs = (np.random.default_rng(i).integers(0, 256, (9, 12, 3), np.uint8) for i in range(count))
    return [np.asarray(Image.fromarray(blob).resize(SIZE_WH)) for blob in blobs]


def measure(side: str, config: ConfigDict, count: int) -> dict[str, Any]:
    """Photos a second of one side, processor and stage seconds a photo, peak memory, busy share (ours)."""
    import torch

    from labelgen.models.teachers import Encoders
    from labelgen.sources.photos import Photo as Loaded

    encoders = Encoders(config)
    images = photos(count)
    times = StageTimes() if side == "ordinary" else encoders.times
    run = Ordinary(encoders, config, times) if side == "ordinary" else encoders.encode_photo
    run(Loaded("warm", images[0]))
    times.taken()
    start, worked = time.perf_counter(), time.process_time()
    if side == "ours":
        for _ in encoders.encode_photos(Loaded(str(i), image) for i, image in enumerate(images)):
            pass
    else:
        for i, image in enumerate(images):
            run(Loaded(str(i), image))
    seconds = time.perf_counter() - start
    gpu = encoders._clip.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "photos_s": count / seconds,
        "cpu_s": (time.process_time() - worked) / count,
        "stages": {stage: spent / count for stage, spent in times.taken().items()},
        "peak_gb": peak / 1e9,
        "busy": encoders.busy.share() if side == "ours" else None,
    }


class Ordinary:
    """The same models as their own libraries drive them, one thing at a time."""

    def __init__(self, encoders: Any, config: ConfigDict, times: StageTimes) -> None:
        from labelgen.models.libraries import SamAutomaticMaskGenerator

        self._clip, self._patches, self._times, self._config = encoders._clip, encoders._patches, times, config.clip
        self._generator = SamAutomaticMaskGenerator(
            encoders._sam.model,
            points_per_side=config.sam.points_per_side,
            pred_iou_thresh=config.sam.pred_iou_threshold,
            stability_score_thresh=config.sam.stability_threshold,
            box_nms_thresh=config.sam.nms_threshold,
        )

    def __call__(self, photo: Any) -> None:
        """One photo through all three."""
        import torch

        from labelgen.models import compute

        image = photo.image
        with torch.inference_mode(), compute.autocast(self._clip.device, self._clip.dtype):
            with self._times("encoder"):
                self._patches.features(image)
            with self._times("clip"):
                for window in self._windows(image):
                    pixels = torch.from_numpy(window).to(self._clip.device).permute(2, 0, 1)[None].float() / 255
                    self._clip.model.encode_image((pixels - 0.5) / 0.25)
            with self._times("sam"):
                self._generator.generate(image)

    def _windows(self, image: Photo) -> list[Photo]:
        """Crops, and the windows of the dense maps."""
        from labelgen.core.geometry import crop_windows, resize, tile

        clip, fields, size_hw = self._clip, self._config, (image.shape[0], image.shape[1])
        parts = crop_windows(size_hw, clip.image_px, tuple(fields.crop_scales))
        parts.append(tile(size_hw, fields.short_side_px, fields.window_px, fields.stride_px))
        return [window for part in parts for window in part.cut(resize(image, part.frame_hw, clip.resample))]


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--size", choices=("pocket", *MODELS), default="pocket")
    flags.add_argument("--photos", type=int, default=8, metavar="N")
    flags.add_argument("--repeats", type=int, default=3, metavar="R")
    flags.add_argument("--cores", type=int, default=2, metavar="N", help="cores and threads of each side; 0: all")
    flags.add_argument("--device", default="auto")
    flags.add_argument("--scratch", default=f"{gettempdir()}/fmbseg-throughput", metavar="FOLDER")
    flags.add_argument("--worker", choices=SIDES, help=argparse.SUPPRESS)
    flags.add_argument("--out", metavar="F.json", help="also write every run's figures there")
    flags.set_defaults(config="")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
