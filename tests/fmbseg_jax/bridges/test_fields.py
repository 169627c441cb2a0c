"""Label maps as FiftyOne has them: fields, samples, and the folder of masks that its own importer reads."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fmbseg_jax.bridges.answers import open_labeller
from fmbseg_jax.bridges.fields import mask_targets, samples, to_fiftyone
from labelgen import export, run
from labelgen.core.command import command
from labelgen.core.ontology import ignore_value
from labelgen.data.dataset import Dataset
from labelgen.data.records import LabelRow
from labelgen.formats.fiftyone import mask_values
from tests.fmbseg_jax.inference.test_segmenter import segmentation
from tests.worlds import tiny_models, tiny_run
from tests.worlds.page import example


def label_maps(data: Path, labels: str = "default") -> dict[str, np.ndarray]:
    """Name of each photo -> class + 1, 0 unlabelled."""
    reader = Dataset.open(data).label_reader(labels, "train")
    rows = [LabelRow.decode(reader[i]) for i in range(len(reader))]
    return {
        row.photo_id: np.where(row.label_map == ignore_value(row.label_map), 0, row.label_map.astype(int) + 1)
        for row in rows
    }


def test_values_are_classes_plus_one() -> None:
    values = mask_values(np.array([[-1, 0, 253]], np.int32), 254)
    assert values.dtype == np.uint8 and values.tolist() == [[0, 1, 254]]
    assert mask_values(np.array([[-1, 254]], np.int32), 255).dtype == np.uint16
    assert mask_targets(["a", "b"]) == {1: "a", 2: "b"}


def test_the_masks_of_an_export_come_back_by_name(world: Path, copy: Path, tmp_path: Path) -> None:
    config = f"--config={world}/config.py"
    exported = [config, f"--data={copy}", f"--out={tmp_path}", "--format=fiftyone"]
    assert command(export.main, export.arguments(), exported) == 0
    wanted = label_maps(copy)
    assert any((label_map == 0).any() for label_map in wanted.values())
    for name, label_map in wanted.items():
        assert np.array_equal(np.asarray(Image.open(tmp_path / f"fiftyone/masks/train/{name}.png")), label_map)
    classes = json.loads((tmp_path / "fiftyone/classes.json").read_text())
    assert {name: fields["index"] for name, fields in classes.items()} == {
        "__ignore__": 0, "sky": 1, "grass": 2, "ball": 3,
    }  # fmt: skip
    back = [config, f"--out={copy}", "--stage=label", f"--labels_from={tmp_path}/fiftyone/masks"]
    assert command(run.main, run.arguments(), [*back, "--config.labels.name=back"]) == 0
    assert all(np.array_equal(label_map, wanted[name]) for name, label_map in label_maps(copy, "back").items())


def test_fiftyone_has_the_result_as_a_segmentation() -> None:
    fo = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    field = to_fiftyone(segmentation())
    assert isinstance(field, fo.Segmentation) and field.mask.tolist() == [[2, 2, 2, 1]] * 2


def test_samples_of_a_folder_of_photos(world: Path, whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fo = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    wanted = label_maps(whole)
    made = list(samples(world / "photos", open_labeller(data=str(whole))))
    assert made and all(isinstance(sample, fo.Sample) for sample in made)
    for sample in made:
        path = Path(sample.filepath)
        assert path.is_file() and path.is_absolute()
        assert np.array_equal(sample["fmbseg"].mask, wanted[path.stem])


def test_its_importer_reads_the_exported_folder(world: Path, whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    from fiftyone.utils.data import ImageSegmentationDirectoryImporter

    exported = [f"--config={world}/config.py", f"--data={whole}", f"--out={tmp_path}", "--format=fiftyone"]
    assert command(export.main, export.arguments(), exported) == 0
    wanted = label_maps(whole)
    photos, masks = str(world / "photos"), str(tmp_path / "fiftyone/masks")
    with ImageSegmentationDirectoryImporter(data_path=photos, labels_path=masks) as importer:
        found = {Path(path).stem: field.get_mask() for path, _, field in importer if field is not None}
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(mask, wanted[name]) for name, mask in found.items())


def test_the_lines_of_the_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fo = pytest.importorskip("fiftyone", reason="fiftyone is not installed")
    tiny_run.write(tmp_path / "run", tiny_models.write(tmp_path / "weights"))
    (tmp_path / "photos").mkdir()
    for name in ("photo.jpg", "photos/a.png", "photos/b.png"):
        tiny_run.picture(40, 53).save(tmp_path / name)
    (tmp_path / "photos/c.png").write_bytes(b"no picture")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(example("tools.md", "to_fiftyone("), names)
    assert isinstance(names["field"], fo.Segmentation) and names["targets"] == {"fmbseg": {1: "ball", 2: "box"}}
    assert [Path(sample.filepath).name for sample in names["made"]] == ["a.png", "b.png"]
