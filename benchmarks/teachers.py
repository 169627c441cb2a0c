"""What a photo costs by the presets of configs/my_photos.py, and SAM 2.1 beside SAM, by untrained models of real shape.

    python -m benchmarks.teachers --out=FOLDER [--rows=fast,balanced,best,sams] [--out_json=F.json]

One photo of 500 x 375 px, float32 on the CPU, each model in a process of its own: processor seconds, peak memory, and
its floating-point operations as torch counts them in the same pass (products, convolutions, attention; two an addition
and multiplication). Of SAM the image embedding and the answers to all points, at what 64 of them took; not what is made
of the answers (suppression, run lengths), which depends on the masks, and an untrained SAM's are not those of a trained
one. The row `sams` has every SAM with the same 32 x 32 points. What a GPU would take is these operations at SHARE of
the published peak in bfloat16 of an A100: an estimate, nothing is run on one.
--worker=ROW is how the command calls itself. Random weights, up to 2.6 GB a model, are kept in FOLDER/weights.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from PIL import Image

from benchmarks.labelgen_real_size import SIZE_WH, encoder
from benchmarks.setting import fresh_process, publish, table
from labelgen.core.command import command, parser
from labelgen.core.config import load_config

PRESETS = ("fast", "balanced", "best", "default")
SAMS = ("vit_h", "vit_b", "mobile_sam", *(f"sam2.1_hiera_{size}" for size in ("tiny", "small", "base_plus", "large")))
PARTS = ("dinov2", "clip", "sam")
A100, SHARE = 312e12, 0.3
DECODED, BATCH = 64, 16
"""Points that SAM is asked, and how many at a time."""


def main(args: argparse.Namespace) -> int:
    """Measures every row and prints the tables."""
    if args.worker:
        print(json.dumps(measure(args.worker, args.part, Path(args.out))))
        return 0
    runs: dict[str, dict[str, Any]] = {}
    for row in args.rows.split(","):
        for name in SAMS if row == "sams" else (row,):
            for part in ("sam",) if name in SAMS else PARTS:
                flags = [f"--worker={name}", f"--part={part}", f"--out={args.out}"]
                out = fresh_process("benchmarks.teachers", flags, args.threads).out
                runs.setdefault(name, {})[part] = json.loads(out.splitlines()[-1])
                print(f"{name}, {part}: {out.splitlines()[-1]}", file=sys.stderr, flush=True)
    publish(argparse.Namespace(out=args.out_json), {"runs": runs}, report(runs))
    return 0


def report(runs: dict[str, dict[str, Any]]) -> str:
    """Markdown: the presets, then SAM beside SAM."""
    presets = [name for name in PRESETS if name in runs]
    rows = []
    for name in presets:
        parts = runs[name]
        cpu_s, flop = (sum(part[key] for part in parts.values()) for key in ("cpu_s", "flop"))
        models = [f"{part['model']}: {part['cpu_s']:.1f}" for part in parts.values()]
        peak = max(part["peak_gb"] for part in parts.values())
        rows.append([name, *models, f"**{cpu_s:.0f}**", f"{peak:.1f}", f"{flop / 1e12:.1f}", gpu_s(flop)])
    heads = ["preset", "encoder", "CLIP", "SAM", "all", "largest peak alone, GB", "TFLOP", "s by an A100's FLOPs"]
    of_presets = table(heads, rows) if rows else ""
    largest = runs.get(SAMS[0], {}).get("sam", {}).get("cpu_s")
    rows = []
    for name, sam in ((name, runs[name]["sam"]) for name in SAMS if name in runs):
        part = f"{largest / sam['cpu_s']:.1f}" if largest else "-"
        cost = [f"{sam['peak_gb']:.1f}", f"{sam['flop'] / 1e12:.1f}", gpu_s(sam["flop"])]
        rows.append([name, f"{sam['encoder_s']:.1f}", f"{sam['cpu_s']:.1f}", part, *cost])
    heads = ["sam.name", "image encoder", "all", "vit_h takes times", "peak alone, GB", "TFLOP", "s by an A100's FLOPs"]
    return "\n\n".join(part for part in (of_presets, table(heads, rows) if rows else "") if part)


def gpu_s(flop: float) -> str:
    """By SHARE of the peak."""
    return f"{flop / (SHARE * A100):.2f}"


def config_of(row: str, folder: Path) -> ConfigDict:
    """The config of a preset, or of a SAM's name with the points and thresholds of configs/default.py."""
    path, fields = f"configs/my_photos.py:{row}", [f"weights_dir={folder / 'weights'}", "device=cpu", "dtype=float32"]
    if row in SAMS:
        path, fields = "configs/default.py", [*fields, f"sam.name={row}"]
    if row == "default":
        path = "configs/my_photos.py"
    config = load_config(path, fields)
    with config.unlocked():
        config.sam.weights = f"untrained_{config.sam.name}.pt"
        config.encoder.weights = f"untrained_{config.encoder.name}.safetensors"
        config.clip.pretrained = "openai"
    return config


def untrained(part: str, config: ConfigDict) -> None:
    """Random weights of the part's official shape, where the loaders look for them."""
    import torch
    from safetensors.torch import save_file

    from labelgen.models import mobile_sam, sam2
    from labelgen.models.libraries import open_clip, sam_model_registry, timm

    name = {"clip": f"{config.clip.name}-openai.safetensors", "sam": config.sam.weights}.get(
        part, config.encoder.weights
    )
    path = Path(config.weights_dir, name)
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    partial = path.with_suffix(".partial")
    if part == "sam":
        sam = config.sam.name
        model = sam2.build(sam) if sam in sam2.SIZES else mobile_sam.build() if sam == "mobile_sam" else None
        torch.save((model or sam_model_registry[sam]()).state_dict(), partial)
    else:
        model = (
            open_clip.create_model(config.clip.name, pretrained=None)
            if part == "clip"
            else timm.create_model(config.encoder.name, pretrained=False, num_classes=0)
        )
        save_file({key: value.contiguous() for key, value in model.state_dict().items()}, partial)
    partial.rename(path)


def photo() -> Any:
    """uint8 [375, 500, 3] of soft blobs."""
    blobs = np.random.default_rng(0).integers(0, 256, (9, 12, 3), np.uint8)
    return np.asarray(Image.fromarray(blobs).resize(SIZE_WH))


def measure(row: str, part: str, folder: Path) -> dict[str, Any]:
    """One photo by one model."""
    config = config_of(row, folder)
    untrained(part, config)
    encode, _ = encoder(part, config)
    names = {"clip": config.clip.name, "sam": config.sam.name, "dinov2": config.encoder.name.partition(".")[0]}
    if part == "sam":
        found = by_sam(encode.__self__, config.sam.points_per_side**2)
    else:
        cpu_s, flop = spent(lambda: encode(photo()))
        found = {"cpu_s": cpu_s, "flop": flop}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 + found.pop("kept", 0)
    return {"model": names[part], "peak_gb": peak / 1e9, **found}


def by_sam(sam: Any, points: int) -> dict[str, Any]:
    """Embedding a photo and the answers to so many points, of which DECODED are asked."""
    import torch

    from labelgen.core.geometry import resize

    image = photo()
    input_hw = sam._input_hw(image.shape[:2])
    resized = resize(image, input_hw, Image.Resampling.BILINEAR)
    asked = torch.rand(DECODED, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor(input_hw[::-1])
    found: list[Any] = []
    with torch.inference_mode():
        encoder_s, encoder_flop = spent(lambda: found.append(sam._embed(resized)))
        needed = rows, columns = sam._needed(input_hw)
        sam._decode(found[0], asked[:BATCH], needed)
        points_s, points_flop = spent(
            lambda: [sam._decode(found[0], part, needed)[1] for part in torch.split(asked, BATCH)]
        )
    times = points / DECODED
    return {
        "encoder_s": encoder_s,
        "cpu_s": encoder_s + times * points_s,
        "flop": encoder_flop + times * points_flop,
        "kept": 4 * 3 * points * rows * columns,
    }


def spent(run: Callable[[], Any]) -> tuple[float, int]:
    """Processor seconds, and floating-point operations."""
    counted, start = counter(), time.process_time()
    with counted:
        run()
    return time.process_time() - start, counted.get_total_flops()


def counter() -> Any:
    """torch's counter of operations, with the CPU's fused attention, which it leaves out."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    def attention(q: Any, k: Any, v: Any, *args: Any, out_val: Any = None, **kwargs: Any) -> int:
        batch, heads, queries, width = q.shape
        return int(2 * batch * heads * queries * k.shape[2] * (width + v.shape[3]))

    fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    attention._get_raw = True  # type: ignore[attr-defined]
    return FlopCounterMode(display=False, custom_mapping={fused: attention})


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", required=True, metavar="FOLDER", help="scratch; kept for the next time")
    flags.add_argument(
        "--rows", default="fast,balanced,best,default,sams", help="presets, `default`, `sams` or some of them"
    )
    flags.add_argument("--threads", type=int, default=2, metavar="N", help="of each process")
    flags.add_argument("--worker", default="", help=argparse.SUPPRESS)
    flags.add_argument("--part", choices=PARTS, default="sam", help=argparse.SUPPRESS)
    flags.add_argument("--out_json", default="", metavar="F.json", help="also write every figure there")
    flags.set_defaults(config="")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
