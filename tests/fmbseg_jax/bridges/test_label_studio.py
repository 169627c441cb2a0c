"""Label Studio's own backend SDK asks a RUN for predictions, its own decoder reads them; corrections become labels."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax import connect
from fmbseg_jax.bridges import label_studio
from fmbseg_jax.bridges.answers import Answer
from fmbseg_jax.inference.segmenter import Segmenter
from labelgen import run as labelgen_run
from labelgen.core.command import command
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from labelgen.sources.coco_masks import polygon_mask
from tests.worlds import tiny_models, tiny_run
from tests.worlds.file_server import serving
from tests.worlds.paths import ROOT
from tests.worlds.tiny_run import picture

KINDS = {"brush": "BrushLabels", "polygons": "PolygonLabels"}
needs_sdk = pytest.mark.skipif(not find_spec("label_studio_ml"), reason="label-studio-ml is not installed")
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run.write(tmp_path_factory.mktemp("run"), tiny_models.write(tmp_path_factory.mktemp("weights")))


@pytest.fixture
def folder(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `connect` wrote, and pictures beside."""
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # the SDK keeps what it downloads
    out = tmp_path / "backend"
    arguments = [f"--workdir={run}", "--to=label-studio", f"--out={out}"]
    assert command(connect.main, connect.arguments(), arguments) == 0
    picture(40, 53).save(tmp_path / "a.png")
    return out


@pytest.fixture
def pictures(tmp_path: Path) -> Iterator[str]:
    """The url at which the SDK gets the pictures, as from Label Studio."""
    with serving(tmp_path) as server:
        yield server.url


def client(folder: Path, run: Path) -> Any:
    """Flask's client of the SDK's own application."""
    return label_studio.application(folder / "corrections", run=str(run)).test_client()


def request(folder: Path, kind: str, *urls: str) -> dict[str, Any]:
    """What Label Studio posts to /predict."""
    tasks = [{"id": i, "data": {"image": url}} for i, url in enumerate(urls, 1)]
    return {"tasks": tasks, "project": "1.1", "label_config": (folder / f"labels_{kind}.xml").read_text(), "params": {}}


@needs_sdk
def test_brushes_are_the_masks(run: Path, folder: Path, tmp_path: Path, pictures: str) -> None:
    from label_studio_sdk.converter.brush import decode_rle

    wanted = Segmenter.restore(run)(tmp_path / "a.png")
    answered = client(folder, run).post("/predict", json=request(folder, "brush", f"{pictures}/a.png"))
    (found,) = answered.get_json()["results"]
    assert found["model_version"].startswith("step 7, words ")
    drawn = {}
    for each in found["result"]:
        assert (each["from_name"], each["to_name"], each["type"]) == ("label", "image", "brushlabels")
        pixels = np.reshape(decode_rle(each["value"]["rle"]), (40, 53, 4))[..., 3] > 0
        (name,) = each["value"]["brushlabels"]
        drawn[name] = pixels
        assert each["score"] == pytest.approx(wanted.scores[name])
    assert all(np.array_equal(drawn[name], wanted.label_map == wanted.names.index(name)) for name in wanted.shares)


@needs_sdk
def test_polygons_give_the_label_map_back(run: Path, folder: Path, tmp_path: Path, pictures: str) -> None:
    wanted = Segmenter.restore(run)(tmp_path / "a.png")
    answered = client(folder, run).post("/predict", json=request(folder, "polygons", f"{pictures}/a.png"))
    drawn = np.full((40, 53), -1)
    for each in answered.get_json()["results"][0]["result"]:
        ring = np.round(np.array(each["value"]["points"]) * [0.53, 0.4], 6)
        drawn[polygon_mask(ring.ravel(), (40, 53))] = wanted.names.index(each["value"]["polygonlabels"][0])
    assert np.array_equal(drawn, wanted.label_map)


@needs_sdk
def test_a_picture_that_cannot_be_read_has_no_regions_and_the_others_have(
    run: Path, folder: Path, tmp_path: Path, pictures: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    asked = request(folder, "brush", f"{pictures}/broken.png", f"{pictures}/a.png")
    asked["label_config"] = (
        asked["label_config"]
        .replace('    <Label value="ball" background="', "<!--")
        .replace('"/>\n    <Label value="box"', '-->\n    <Label value="box"', 1)
    )
    first, second = client(folder, run).post("/predict", json=asked).get_json()["results"]
    assert first["result"] == [] and [each["value"]["brushlabels"] for each in second["result"]] == [["box"]]
    said = capsys.readouterr().err
    assert f"task 1: {pictures}/broken.png: not a picture" in said
    assert "not in the labelling interface, left out: ball" in said


def event(action: str, number: int, name: str, regions: list[Any], annotation: int = 5) -> dict[str, Any]:
    """What Label Studio's webhook sends."""
    return {
        "action": action,
        "annotation": {"id": annotation, "result": regions, "was_cancelled": False, "updated_at": f"{annotation}"},
        "task": {"id": number, "data": {"image": f"/data/upload/1/1a2b3c4d-{name}.png"}},
        "project": {"id": 1, "label_config": label_studio.interface(["sky", "grass", "ball"], "BrushLabels")},
    }


@needs_sdk
def test_what_people_submit_comes_back_as_labels(
    run: Path, folder: Path, world: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from label_studio_sdk.converter.brush import mask2rle

    reader = Dataset.open(copy).label_reader("default", "train")
    rows = [LabelRow.decode(reader[i]) for i in range(2)]
    height, width = rows[0].label_map.shape
    drawn = np.zeros((height, width), np.uint8)
    drawn[: height // 2] = 255
    value = {"format": "rle", "rle": mask2rle(drawn), "brushlabels": ["ball"]}
    frame = {"original_width": width, "original_height": height, "type": "brushlabels", "from_name": "label"}
    regions = [{**frame, "to_name": "image", "image_rotation": 0, "value": value}]
    server = client(folder, run)
    for action, number, annotation in (
        ("ANNOTATION_CREATED", 0, 4), ("ANNOTATION_UPDATED", 0, 4), ("ANNOTATION_CREATED", 0, 5),
        ("ANNOTATION_CREATED", 1, 6), ("ANNOTATION_DELETED", 1, 6),
    ):  # fmt: skip
        sent = event(action, number + 1, rows[number].photo_id, regions if annotation == 5 else [], annotation)
        assert server.post("/webhook", json=sent).status_code == 201
    assert [path.name for path in (folder / "corrections").iterdir()] == ["1.json"]
    back = [f"--config={world}/config.py", f"--out={copy}", "--stage=label", f"--labels_from={folder}/corrections"]
    assert command(labelgen_run.main, labelgen_run.arguments(), [*back, "--config.labels.name=back"]) == 0
    assert ", 1 photos as corrected; 1 annotations beside the newest of their photo left out" in capsys.readouterr().out
    corrected = LabelRow.decode(Dataset.open(copy).label_reader("back", "train")[0])
    assert np.array_equal(corrected.label_map == 2, drawn > 0) and (corrected.label_map[height // 2 :] == 255).all()
    untouched = LabelRow.decode(Dataset.open(copy).label_reader("back", "train")[1])
    assert np.array_equal(untouched.label_map, rows[1].label_map)


@needs_sdk
def test_its_own_command_starts_the_backend(folder: Path, tmp_path: Path, pictures: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    told = [sys.executable, "-m", "label_studio_ml.server", "start", str(folder), "-p", str(port)]
    with subprocess.Popen(told, env=environment, cwd=tmp_path, start_new_session=True) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(600):
                try:
                    up = json.load(urllib.request.urlopen(f"{url}/health", timeout=5))
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.1)
            assert up == {"status": "UP", "model_class": "Backend"}
            asked = json.dumps(request(folder, "brush", f"{pictures}/a.png")).encode()
            sent = urllib.request.Request(f"{url}/predict", asked, {"Content-Type": "application/json"})
            assert json.load(urllib.request.urlopen(sent, timeout=120))["results"][0]["result"]
        finally:
            os.killpg(process.pid, 15)


class Ring:
    """A labeller of one picture: a ring whose hole is unlabelled."""

    names, version, complete = ("ring",), "1", False

    def __call__(self, name: str, image: Image.Image) -> Answer:
        label_map = np.full((9, 9), -1, np.int32)
        label_map[1:8, 1:8] = 0
        label_map[3:6, 3:6] = -1
        return Answer(self.names, label_map, {0: 0.9})


@pytest.mark.parametrize(("known", "count"), [(["ring", "__ignore__"], 2), (["ring"], 1), ([], 0)])
def test_a_hole_is_a_polygon_where_the_interface_has_its_label(known: list[str], count: int) -> None:
    found = Ring()("a.png", Image.new("RGB", (9, 9)))
    regions = list(
        label_studio._regions(found, "PolygonLabels", dict(zip(known, known, strict=True)), "label", "image")
    )
    assert [each["value"]["polygonlabels"] for each in regions] == [[name] for name in known[:count]]
    assert [each["score"] for each in regions] == [0.9, 0.0][:count]


def test_annotations_are_kept_one_file_a_task(tmp_path: Path) -> None:
    assert "trained" in label_studio.keep(tmp_path, "START_TRAINING", {})["said"]
    for action, annotation, wanted in (
        ("ANNOTATION_CREATED", 1, [1]), ("ANNOTATION_CREATED", 2, [1, 2]), ("ANNOTATION_UPDATED", 1, [2, 1]),
        ("ANNOTATION_DELETED", 2, [1]),
    ):  # fmt: skip
        said = label_studio.keep(tmp_path, action, event(action, 3, "a", [], annotation))["said"]
        kept = json.loads((tmp_path / "3.json").read_text())
        assert [each["id"] for each in kept["annotations"]] == wanted and said.startswith(
            f"{len(wanted)} annotations of"
        )
    label_studio.keep(tmp_path, "ANNOTATION_DELETED", event("ANNOTATION_DELETED", 3, "a", [], 1))
    assert not list(tmp_path.iterdir())


def test_the_interface_names_every_class_in_its_colour() -> None:
    from xml.etree import ElementTree

    names = ["a & b", 'the "c"']
    for control in label_studio.CONTROLS:
        view = ElementTree.fromstring(label_studio.interface(names, control))
        labels = view.findall(f"{control}/Label")
        assert [label.attrib["value"] for label in labels] == [*names, "__ignore__"]
        assert len({label.attrib["background"] for label in labels}) == 3
