"""Measures the pocket SAM on scenes that it has not seen: one-point IoU, calibration, automatic masks, speed.

    python -m pocket.measure_sam [--weights=pocket/weights] [--scenes=60] [--split=eval]

Prints a table; nothing is written.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import sys
import time
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from labelgen.core.command import command, parser
from labelgen.models.libraries import Sam, SamAutomaticMaskGenerator, SamPredictor
from pocket.sam_data import region_is_thing
from pocket.sam_model import load
from pocket.scenes import Scene, draw

PRED_IOU, STABILITY = 0.6, 0.4  # thresholds of the automatic masks that suit this model


@dataclass(frozen=True)
class Points:
    """One row a prompt: predicted and real IoU float32 [n, 3] of the three masks, and whether it is on a thing."""

    predicted: NDArray[np.float32]
    real: NDArray[np.float32]
    on_thing: NDArray[np.bool_]

    def best(self) -> NDArray[np.float32]:
        """IoU of the best of the three masks: float32 [n]."""
        return np.asarray(self.real.max(1), np.float32)

    def chosen(self) -> NDArray[np.float32]:
        """IoU of the mask whose predicted IoU is highest: float32 [n]."""
        return np.asarray(self.real[np.arange(len(self.real)), self.predicted.argmax(1)], np.float32)


def iou(masks: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float32]:
    """IoU of each mask [n, H, W] with truth [H, W]: float32 [n]."""
    both = (masks & truth).sum((1, 2))
    return np.asarray(both / np.maximum((masks | truth).sum((1, 2)), 1), np.float32)


def one_point(predictor: SamPredictor, scene: Scene, rng: np.random.Generator, per_region: int = 2) -> Points:
    """Prompts every region of a scene at random pixels, through segment_anything's predictor."""
    predictor.set_image(scene.photo)
    things = region_is_thing(scene)
    rows = []
    for region in np.unique(scene.regions):
        inside = scene.regions == region
        pixels = np.argwhere(inside)
        for y, x in pixels[rng.integers(0, len(pixels), per_region)]:
            masks, predicted, _ = predictor.predict(np.array([[x, y]]), np.array([1]), multimask_output=True)
            rows.append((predicted, iou(masks, inside), things[region]))
    predicted, real, on_thing = zip(*rows, strict=True)
    return Points(np.stack(predicted), np.stack(real), np.array(on_thing))


def join(parts: list[Points]) -> Points:
    """The prompts of many scenes as one."""
    return Points(
        np.concatenate([part.predicted for part in parts]),
        np.concatenate([part.real for part in parts]),
        np.concatenate([part.on_thing for part in parts]),
    )


def automatic(
    model: Sam, scene: Scene, pred_iou: float, stability: float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], int]:
    """Best IoU over the automatic masks for each region, which regions are things, and how many masks there are."""
    generator = SamAutomaticMaskGenerator(
        model, points_per_side=16, pred_iou_thresh=pred_iou, stability_score_thresh=stability
    )
    masks = [found["segmentation"] for found in generator.generate(scene.photo)]
    things, regions = region_is_thing(scene), np.unique(scene.regions)
    stack = np.stack(masks) if masks else np.zeros((0, *scene.regions.shape), np.bool_)
    best = [iou(stack, scene.regions == region).max(initial=0.0) for region in regions]
    return np.array(best, np.float32), things[regions], len(masks)


@torch.no_grad()
def seconds_a_photo(model: Sam, repeats: int = 5, points: int = 256, at_once: int = 64) -> tuple[float, float]:
    """Seconds of one encoding and of the decoder on a grid of points, the fastest of some repeats."""
    photo = torch.zeros(1, 3, *model.prompt_encoder.input_image_size)
    grid = torch.rand(points, 1, 2) * photo.shape[-1]
    encode, decode = [], []
    for _ in range(repeats):
        start = time.perf_counter()
        embedding = model.image_encoder(photo)
        encode.append(time.perf_counter() - start)
        for some in torch.split(grid, at_once):
            sparse, dense = model.prompt_encoder((some, torch.ones(len(some), 1, dtype=torch.int)), None, None)
            model.mask_decoder(embedding, model.prompt_encoder.get_dense_pe(), sparse, dense, True)
        decode.append(time.perf_counter() - start - encode[-1])
    return min(encode), min(decode)


def report(model: Sam, scenes: list[Scene]) -> str:
    """All figures as a text of a few lines."""
    rng = np.random.default_rng(0)
    predictor = SamPredictor(model)
    points = join([one_point(predictor, scene, rng) for scene in scenes])
    lines = [f"{len(points.real)} one-point prompts on {len(scenes)} scenes"]
    for name, rows in (("all", points.on_thing | True), ("stuff", ~points.on_thing), ("things", points.on_thing)):
        lines.append(f"  {name}: IoU best {points.best()[rows].mean():.3f} chosen {points.chosen()[rows].mean():.3f}")
    error = points.predicted - points.real
    lines.append(f"  predicted IoU: mean error {error.mean():+.3f}, mean absolute {np.abs(error).mean():.3f}")
    top = points.predicted.max(1)
    for low, high in ((0.0, 0.5), (0.5, 0.7), (0.7, 0.8), (0.8, 0.9), (0.9, 2.0)):
        rows = (top >= low) & (top < high)
        if rows.any():
            lines.append(
                f"    predicted {low:.1f} to {min(high, 1):.1f}: {rows.mean():.2f} of the prompts, "
                f"predicted {top[rows].mean():.3f} real {points.chosen()[rows].mean():.3f}"
            )
    best, thing, counts = zip(*[automatic(model, scene, PRED_IOU, STABILITY) for scene in scenes], strict=True)
    all_best, all_thing = np.concatenate(best), np.concatenate(thing)
    lines.append(
        f"automatic masks, 16 x 16 points, predicted IoU > {PRED_IOU}, stability >= {STABILITY}: best IoU of a region "
        f"stuff {all_best[~all_thing].mean():.3f} things {all_best[all_thing].mean():.3f}, {np.mean(counts):.1f} masks"
    )
    encode, decode = seconds_a_photo(model)
    lines.append(f"seconds a photo ({torch.get_num_threads()} threads): encode {encode:.3f}, 256 points {decode:.3f}")
    return "\n".join(lines)


def main(args: argparse.Namespace) -> int:
    """Measures."""
    torch.set_num_threads(args.threads)
    scenes = [draw(0, index, args.split) for index in range(args.scenes)]
    print(report(load(args.weights), scenes))
    print("wrote nothing; next, if it is good enough: python -m labelgen.run --config=configs/pocket.py --out=DATA")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m pocket.measure_sam`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--weights", default="pocket/weights", help="folder of sam.json and sam.safetensors")
    flags.add_argument("--scenes", type=int, default=60, help="how many (60)")
    flags.add_argument("--split", default="eval", choices=["eval", "held_out"])
    flags.add_argument("--threads", type=int, default=1, help="of the processor (1)")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
