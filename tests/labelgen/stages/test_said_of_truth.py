"""What a json's truth leaves out: in the last line of encoding, and in dataset.json."""

import json
from pathlib import Path

import pytest

from tests.worlds import stub_run
from tests.worlds.coco import annotation, box, categories, image_record, write_json, write_photos

CONFIG = """
from configs.default import get_config as default
from ml_collections import ConfigDict

def get_config():
    config = default()
    config.photos.root, config.photos.source = {root!r}, "coco"
    config.photos.splits = ConfigDict({{"train": {{"photos": "train", "masks": "instances"}}}})
    return config
"""


def test_truth_that_is_crowds_throughout_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photos(tmp_path / "train", 1, 2)
    contents = {
        "images": [image_record(1), image_record(2)],
        "annotations": [annotation(i, i, 3, box(0, 0, 2, 2), iscrowd=1) for i in (1, 2)],
        "categories": categories((3, "cup")),
    }
    write_json(tmp_path / "annotations/instances_train.json", contents)
    (tmp_path / "config.py").write_text(CONFIG.format(root=str(tmp_path)))
    data = tmp_path / "data"
    for _ in range(2):  # a second start says it again
        assert stub_run.main([f"--config={tmp_path}/config.py", f"--out={data}", "--stage=encode"]) == 0
        said = "instances_train.json: 2 of 2 annotations are crowds, whose pixels are taken as not annotated; where a "
        assert f"encoded photos 2 train, 0 skipped; {said}" in capsys.readouterr().out
    split = json.loads((data / "dataset.json").read_text())["splits"]["train"]
    assert len(split["remarks"]) == 1 and split["remarks"][0].startswith(said)
