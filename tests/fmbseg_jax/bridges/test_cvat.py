"""CVAT's own command line and SDK call the function of a RUN and of a DATA; a task on loopback takes what comes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import connect
from fmbseg_jax.bridges import cvat
from fmbseg_jax.bridges.answers import Answer, open_labeller
from fmbseg_jax.inference.segmenter import Segmenter
from labelgen.core.command import command
from labelgen.core.ontology import ignore_value
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from labelgen.sources.coco_masks import polygon_mask
from tests.worlds import tiny_models, tiny_run
from tests.worlds.cvat_server import CvatServer, serving_cvat
from tests.worlds.paths import ROOT
from tests.worlds.tiny_run import picture

sdk = pytest.importorskip("cvat_sdk", reason="cvat-sdk is not installed")
pytest.importorskip("cvat_cli", reason="cvat-cli is not installed")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:cvat_sdk")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), tiny_models.write(tmp_path_factory.mktemp("weights")))


def connected(*arguments: str) -> list[dict[str, Any]]:
    """What `connect` wrote as labels; the last argument is --out."""
    assert command(connect.main, connect.arguments(), ["--to=cvat", *arguments]) == 0
    labels: list[dict[str, Any]] = json.loads(Path(arguments[-1].removeprefix("--out="), "labels.json").read_text())
    return labels


def annotate(server: CvatServer, home: Path, *flags: str) -> tuple[int, str]:
    """cvat-cli itself, as it is typed."""
    paths = os.pathsep.join([str(ROOT), *sys.path])
    environment = {**os.environ, "HOME": str(home), "CVAT_ACCESS_TOKEN": "t", "PYTHONPATH": paths}
    told = [sys.executable, "-m", "cvat_cli", "--server-host", server.url, "task", "auto-annotate", "1", *flags]
    done = subprocess.run(told, capture_output=True, text=True, env=environment, cwd=home)
    return done.returncode, done.stdout + done.stderr


def masks(server: CvatServer, frame: int, size_hw: tuple[int, int]) -> dict[str, np.ndarray]:
    """The masks of a frame by the name of their label, by the SDK's own decoder."""
    from cvat_sdk.masks import decode_mask

    names = {label["id"]: label["name"] for label in server.labels}
    shapes = [shape for shape in server.annotations["shapes"] if shape["frame"] == frame]
    assert all(shape["type"] == "mask" and shape["source"] == "auto" for shape in shapes)
    height, width = size_hw
    return {
        names[shape["label_id"]]: decode_mask(shape["points"], image_width=width, image_height=height)
        for shape in shapes
    }


def test_the_command_line_annotates_a_task_by_a_run(run: Path, tmp_path: Path, capsys: Any) -> None:
    labels = connected(f"--workdir={run}", f"--out={tmp_path / 'for cvat'}")
    assert "next: cvat-cli task create NAME local PHOTOS --labels @" in capsys.readouterr().out
    files = [tmp_path / "a.png", tmp_path / "b.png"]
    for i, file in enumerate(files):
        picture(40 + i, 53, i).save(file)
    with serving_cvat([("x/a.png", files[0]), ("x/b.png", files[1])], labels[::-1]) as server:  # ids are the server's
        code, said = annotate(server, tmp_path, "--function-file", str(tmp_path / "for cvat/function.py"))
    assert code == 0, said
    segmenter = Segmenter.restore(run)
    for frame, file in enumerate(files):
        wanted = segmenter(file)
        found = masks(server, frame, (40 + frame, 53))
        assert found.keys() == set(wanted.shares)
        assert all(np.array_equal(mask, wanted.label_map == wanted.names.index(name)) for name, mask in found.items())
    scores, first = segmenter(files[0]).scores, server.annotations["shapes"][0]
    ids = {label["id"]: (label["name"], label["attributes"][0]["id"]) for label in server.labels}
    name, attribute = ids[first["label_id"]]
    assert first["attributes"] == [{"spec_id": attribute, "value": f"{scores[name]:.3f}"}]


def test_polygons_give_the_label_map_back_when_painted_by_their_z_order(run: Path, tmp_path: Path) -> None:
    labels = connected(f"--workdir={run}", f"--out={tmp_path}")
    picture(40, 53).save(tmp_path / "a.png")
    flags = "--function-module", "fmbseg_jax.bridges.cvat", "-p", f"run=str:{run}", "--conv-mask-to-poly"
    with serving_cvat([("a.png", tmp_path / "a.png")], labels) as server:
        code, said = annotate(server, tmp_path, *flags)
    assert code == 0, said
    wanted, drawn = Segmenter.restore(run)(tmp_path / "a.png"), np.full((40, 53), -1)
    names = {label["id"]: label["name"] for label in server.labels}
    shapes = list(reversed(server.annotations["shapes"]))  # the order in which they came is not what counts
    for shape in sorted(shapes, key=lambda each: each["z_order"]):
        assert shape["type"] == "polygon"
        drawn[polygon_mask(shape["points"], (40, 53))] = wanted.names.index(names[shape["label_id"]])
    assert len(server.annotations["shapes"]) > 1 and np.array_equal(drawn, wanted.label_map)


def test_only_what_is_sure_enough(run: Path, tmp_path: Path) -> None:
    labels = connected(f"--workdir={run}", f"--out={tmp_path}")
    picture(40, 53).save(tmp_path / "a.png")
    scores = Segmenter.restore(run)(tmp_path / "a.png").scores
    surest, other = scores
    middle = (scores[surest] + scores[other]) / 2
    flags = "--function-file", str(tmp_path / "function.py"), "--conf-threshold", f"{middle:.6f}"
    with serving_cvat([("a.png", tmp_path / "a.png")], labels) as server:
        code, said = annotate(server, tmp_path, *flags)
    assert code == 0, said
    assert list(masks(server, 0, (40, 53))) == [surest]


def test_a_task_that_lacks_a_label_is_refused_by_name(run: Path, tmp_path: Path) -> None:
    labels = connected(f"--workdir={run}", f"--out={tmp_path}")
    picture(8, 8).save(tmp_path / "a.png")
    with serving_cvat([("a.png", tmp_path / "a.png")], labels[1:]) as server:
        code, said = annotate(server, tmp_path, "--function-file", str(tmp_path / "function.py"))
        assert code != 0 and "label 'ball' is not in dataset" in said and not server.annotations
        flags = "--function-file", str(tmp_path / "function.py"), "--allow-unmatched-labels"
        assert annotate(server, tmp_path, *flags)[0] == 0
    assert set(masks(server, 0, (8, 8))) <= {"box"}


def test_the_free_labels_of_a_data_by_the_names_of_the_frames(world: Path, whole: Path, tmp_path: Path) -> None:
    labels = connected(f"--data={whole}", f"--out={tmp_path}")
    reader = Dataset.open(whole).label_reader("default", "train")
    rows = [LabelRow.decode(reader[i]) for i in range(3)]
    frames = [(f"train/{row.photo_id}.png", world / f"photos/train/{row.photo_id}.png") for row in rows]
    with serving_cvat(frames, labels) as server:
        code, said = annotate(server, tmp_path, "--function-file", str(tmp_path / "function.py"))
    assert code == 0, said
    names = open_labeller(data=str(whole)).names
    for frame, row in enumerate(rows):
        wanted = np.where(row.label_map == ignore_value(row.label_map), -1, row.label_map.astype(int))
        drawn = np.full(wanted.shape, -1)
        for name, mask in masks(server, frame, wanted.shape).items():
            drawn[mask] = names.index(name)
        assert np.array_equal(drawn, wanted) and (wanted < 0).any()


class Ring:
    """A labeller of one picture: a ring whose hole is unlabelled."""

    names, version, complete = ("ring", "inside"), "1", False

    def __call__(self, name: str, image: Image.Image) -> Answer:
        label_map = np.full((9, 9), -1, np.int32)
        label_map[1:8, 1:8] = 0
        label_map[3:6, 3:6] = -1
        label_map[4, 4] = 1
        return Answer(self.names, label_map, {0: 0.9, 1: 0.2})


class Context:
    """Of the SDK's DetectionFunctionContext."""

    frame_name, conv_mask_to_poly = "a.png", True

    def __init__(self, conf_threshold: float | None) -> None:
        self.conf_threshold = conf_threshold


@pytest.mark.parametrize(("threshold", "wanted"), [(None, "ring __ignore__ inside"), (0.5, "ring __ignore__")])
def test_unlabelled_pixels_in_a_hole_have_a_label(threshold: float | None, wanted: str) -> None:
    function = cvat.Function(Ring())
    shapes = function.detect(Context(threshold), Image.new("RGB", (9, 9)))
    names = [label.name for label in function.spec.labels]
    assert [names[shape.label_id] for shape in shapes] == wanted.split()
    assert [len(shape.attributes) for shape in shapes] == [1, 0, 1][: len(shapes)]


def test_the_labels_are_what_the_server_takes() -> None:
    from cvat_sdk.models import AttributeRequest, PatchedLabelRequest

    labels = cvat.label_list(Ring())
    assert [label["name"] for label in labels] == ["ring", "inside", "__ignore__"]
    for label in labels:
        attributes = [AttributeRequest(**each) for each in label["attributes"]]
        PatchedLabelRequest(name=label["name"], color=label["color"], attributes=attributes)
