#!/usr/bin/env bash
# transformers 5.24.0, SAM 2 by pipeline("mask-generation"): of a photo that is no square a part is never asked. The image
# processor stretches a photo to 1024 x 1024, and the processor places a person's points so; but its generate_crop_boxes,
# which the pipeline takes its grid of points from, scales both sides by the longer one, as the padded input of SAM 1
# wants it. Of 512 x 256 px all points lie in the upper half of the input, so the photo's lower half has none, and those
# that there are lie at half their height. Nothing is said; a square photo is right.
# Why it matters here: labelgen's masks of SAM 2.1 are held against transformers, and the pipeline is no reference for
# them: the tests ask its processor and its model instead, point by point.
# Seen without weights. Exits with 0 while it is so, 1 once it is not.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" 2> /dev/null || python3 -m venv --without-pip "$work/venv"
pip=("$work/venv/bin/python" -m pip)
"${pip[@]}" --version > /dev/null 2>&1 || pip=(python3 -m pip --python "$work/venv/bin/python")
"${pip[@]}" install --quiet --disable-pip-version-check torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 \
    numpy==2.4.6 pillow==13.0.0
seen=$("$work/venv/bin/python" - <<'PYTHON'
import torch

try:
    import torchvision  # noqa: F401
except RuntimeError:  # its wheel beside a CPU build of torch: the operator whose absence stops the import, never called
    import sys

    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "DEF")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

from transformers.models.sam2.image_processing_sam2 import Sam2ImageProcessor
from transformers.models.sam2.processing_sam2 import Sam2Processor

images = Sam2ImageProcessor()
photo = torch.zeros(3, 256, 512, dtype=torch.uint8)
print("input:", *images(images=[photo], return_tensors="pt")["pixel_values"].shape[2:])
quarters = [[[[128.0, 64.0]], [[384.0, 64.0]], [[128.0, 192.0]], [[384.0, 192.0]]]]
placed = Sam2Processor(images)(images=[photo], input_points=quarters, return_tensors="pt")["input_points"]
print("a person's points:", placed.reshape(-1, 2).int().tolist())
_, grid, _, _ = images.generate_crop_boxes(photo, target_size=1024, points_per_crop=2)
print("the pipeline's:", grid.reshape(-1, 2).int().tolist())
PYTHON
)
echo "$seen"
expected="input: 1024 1024
a person's points: [[256, 256], [768, 256], [256, 768], [768, 768]]
the pipeline's: [[256, 128], [768, 128], [256, 384], [768, 384]]"
[[ $seen == "$expected" ]] || { echo "changed; it was:"; echo "$expected"; exit 1; }
