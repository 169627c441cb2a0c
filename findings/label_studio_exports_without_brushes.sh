#!/usr/bin/env bash
# label-studio-sdk 2.1.2: a project with brushes and polygons loses every brush in its exports COCO and YOLO, and all that
# is said is a log line that names no task ("Unknown label type or labels are empty {task_id=}", unformatted). In COCO a
# photo with brushes alone is not even among the images; in YOLO its file is empty, as that of a photo with nothing on it.
# Why it matters here: labels that people brushed would be lost on their way to --labels_from; docs/tools.md says to take
# the export JSON, which has them. Exits with 0 while it is so.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check "label-studio-sdk==2.1.2"
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import glob
import json
import sys

import numpy as np
from label_studio_sdk.converter import Converter
from label_studio_sdk.converter.brush import mask2rle

size = {"original_width": 20, "original_height": 10, "image_rotation": 0, "to_name": "i"}
mask = np.zeros((10, 20), np.uint8)
mask[2:5, 3:9] = 255
brush = {"format": "rle", "rle": [int(run) for run in mask2rle(mask)], "brushlabels": ["cat"]}
ring = {"points": [[10, 10], [50, 10], [50, 60]], "closed": True, "polygonlabels": ["dog"]}
regions = [
    {"from_name": "b", "type": "brushlabels", "value": brush, **size},
    {"from_name": "p", "type": "polygonlabels", "value": ring, **size},
]
tasks = [
    {"id": i, "data": {"image": f"{i}.png"}, "annotations": [{"id": i, "was_cancelled": False, "result": result}]}
    for i, result in enumerate([regions[:1], regions])
]
with open("tasks.json", "w") as file:
    json.dump(tasks, file)
view = (
    '<View><Image name="i" value="$image"/><BrushLabels name="b" toName="i"><Label value="cat"/></BrushLabels>'
    '<PolygonLabels name="p" toName="i"><Label value="dog"/></PolygonLabels></View>'
)
converter = Converter(view, ".", download_resources=False)
converter.convert_to_coco("tasks.json", "coco", is_dir=False)
converter.convert_to_yolo("tasks.json", "yolo", is_dir=False)
coco = json.load(open("coco/result.json"))
names = {category["id"]: category["name"] for category in coco["categories"]}
found = [names[annotation["category_id"]] for annotation in coco["annotations"]]
print(f"COCO: {len(coco['images'])} pictures, annotations of {found}")
lines = {path: open(path).read().split("\n") for path in sorted(glob.glob("yolo/labels/*.txt"))}
count = sum(bool(line) for each in lines.values() for line in each)
print(f"YOLO: {len(lines)} files, {count} regions")
sys.exit(0 if (found, len(coco["images"]), len(lines), count) == (["dog"], 1, 2, 1) else 1)
PYTHON
