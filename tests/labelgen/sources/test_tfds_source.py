"""Data sets of TensorFlow Datasets, prepared as ArrayRecord, Parquet or TFRecord, are read without TensorFlow."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ml_collections import ConfigDict

from labelgen.core.errors import PhotoError, UserError
from labelgen.data.tfrecord import frame
from labelgen.sources.photos import IndexTruth, Source
from labelgen.sources.registry import open_source
from labelgen.sources.tfds import find_columns, tfds_source
from tests.worlds.paths import ROOT
from tests.worlds.tfds import BUILDER, SPLITS, pixels, png, rewrite, row

tfds = pytest.importorskip("tensorflow_datasets", reason="an optional extra; installed, its data sets are read")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """File format -> data_dir with the data set `minis` in it. tfds wants builders in a package."""
    root = tmp_path_factory.mktemp("tfds")
    package = root / "fmbseg_minis" / "minis"
    package.mkdir(parents=True)
    for folder in (package, package.parent):
        (folder / "__init__.py").write_text("")
    (package / "minis_dataset_builder.py").write_text(BUILDER)
    sys.path.insert(0, str(root))
    try:
        from fmbseg_minis.minis.minis_dataset_builder import Builder  # type: ignore[import-not-found]

        folders = {}
        for kind in ("array_record", "parquet"):
            folders[kind] = root / kind
            Builder(data_dir=folders[kind], file_format=kind).download_and_prepare()
        folders["tfrecord"] = root / "tfrecord"
        rewrite(folders["array_record"], folders["tfrecord"])
        yield folders
    finally:
        sys.path.remove(str(root))


def source(root: Path, split: str = "train", masks: str = "annotation", name: str = "minis", **options: Any) -> Source:
    values = IndexTruth(options.pop("classes", None), options.pop("ignore_index", 255))
    return tfds_source(root, name, split, masks, values, options.pop("max_pixels", 10**6))


def as_prepared(split: str, photos: Source) -> list[int]:
    """Numbers of the photos of a source, found by their pixels; the maps must be those of the same photo."""
    found = []
    for photo_id in photos.list():
        photo = photos.load(photo_id)
        (number,) = [i for i in range(SPLITS[split]) if np.array_equal(pixels(split, i)[0], photo.image)]
        assert photo.photo_id == photo_id and photo.image.dtype == np.uint8
        assert photo.label_map is not None and photo.label_map.dtype == np.uint8
        assert np.array_equal(photo.label_map, pixels(split, number)[1])
        found.append(number)
    return found


@pytest.mark.parametrize("kind", ["array_record", "parquet", "tfrecord"])
@pytest.mark.parametrize("split", SPLITS)
def test_every_file_format_gives_the_photos_and_maps_that_were_prepared(
    prepared: dict[str, Path], kind: str, split: str
) -> None:
    photos = source(prepared[kind], split)
    assert photos.list() == [f"{i:06d}" for i in range(SPLITS[split])]
    assert photos.classes == ("sky", "sea", "land") and photos.has_truth
    assert photos.file("000001") == f"minis/1.2.0/{split}/000001"
    assert sorted(as_prepared(split, photos)) == list(range(SPLITS[split]))


@pytest.mark.parametrize(
    ("split", "rows"),
    [("train[2:6]", [2, 3, 4, 5]), ("train[:3]", [0, 1, 2]), ("train[5:]", [5, 6]), ("train[1:2]+train[6:]", [1, 6])],
)
def test_slices_are_those_of_the_whole_split_in_both_record_formats(
    prepared: dict[str, Path], split: str, rows: list[int]
) -> None:
    order = as_prepared("train", source(prepared["array_record"]))
    for kind in ("array_record", "tfrecord"):
        assert as_prepared("train", source(prepared[kind], split)) == [order[row] for row in rows]


def test_a_slice_of_parquet_is_refused_since_tfds_would_read_the_whole(prepared: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=r"'train\[:3\]' of this file format is read as a whole only"):
        source(prepared["parquet"], "train[:3]")


def test_root_may_be_the_folder_of_the_version_and_the_newest_version_is_taken(
    prepared: dict[str, Path], tmp_path: Path
) -> None:
    assert as_prepared("validation", source(prepared["tfrecord"] / "minis/1.2.0", "validation"))
    for version in ("1.2.0", "1.10.0"):
        folder = tmp_path / "minis" / version
        folder.parent.mkdir(exist_ok=True)
        rewrite(prepared["array_record"], tmp_path / version)
        (tmp_path / version / "minis/1.2.0").rename(folder)
        info = json.loads((folder / "dataset_info.json").read_text()) | {"version": version}
        (folder / "dataset_info.json").write_text(json.dumps(info))
    assert source(tmp_path).file("000000") == "minis/1.10.0/train/000000"
    assert source(tmp_path, name="minis:1.2.0").file("000000") == "minis/1.2.0/train/000000"
    with pytest.raises(UserError, match=r"no version 9\.0\.0 in it, but 1\.2\.0, 1\.10\.0"):
        source(tmp_path, name="minis:9.0.0")
    (tmp_path / "with").mkdir()
    (tmp_path / "minis").rename(tmp_path / "with/config")
    with pytest.raises(UserError, match="with: has configs config; set photos.source = tfds:with/CONFIG"):
        source(tmp_path, name="with")


def test_without_masks_there_is_no_truth(prepared: dict[str, Path]) -> None:
    photos = {"root": str(prepared["tfrecord"]), "source": "tfds:minis", "max_pixels": 10**6, "ignore_index": 255}
    config = ConfigDict(photos | {"splits": {"val": {"photos": "train", "masks": "annotation"}}})
    assert as_prepared("train", open_source(config, "val", classes=9))
    alone = open_source(config, "val", truth=False)
    photo = alone.load("000000")
    assert alone.classes is None and not alone.has_truth and photo.label_map is None and photo.image.shape[2] == 3


@pytest.mark.parametrize("masks", ["plain", "numbered"])
def test_without_names_values_are_lines_of_the_words(prepared: dict[str, Path], masks: str) -> None:
    photos = source(prepared["tfrecord"], masks=masks, classes=3, ignore_index=0)
    assert photos.classes is None and photos.has_truth
    named = source(prepared["tfrecord"]).load("000002").label_map
    found = photos.load("000002").label_map
    assert found is not None and named is not None
    assert np.array_equal(found, np.where(named == 0, 255, named))
    with pytest.raises(UserError, match=f"train/.* {masks}: class index 2, but there are 2 classes"):
        [source(prepared["tfrecord"], masks=masks, classes=2).load(i) for i in photos.list()]


def test_values_that_have_no_name_are_refused_and_sixteen_bits_are_read(prepared: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="height: class index 800, but there are 3 classes"):
        [source(prepared["tfrecord"], masks="height", classes=3).load(f"{i:06d}") for i in range(7)]
    found = source(prepared["tfrecord"], masks="height", classes=1000).load("000001").label_map
    named = source(prepared["tfrecord"]).load("000001").label_map
    assert found is not None and named is not None and found.dtype == np.uint16
    assert np.array_equal(found, named.astype(np.uint16) * 400)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split": "test"}, "minis/1.2.0: no split 'test' .*; it has train, validation; fix photos.splits"),
        ({"split": "train["}, r"no split 'train\['"),
        ({"split": "train[3:3]"}, r"split 'train\[3:3\]' has no photo"),
        ({"masks": "depth"}, r"masks = 'depth' is not an image feature of it; it has annotation \(LabeledImage\), col"),
        ({"masks": "title"}, r"masks = 'title' is not an image feature of it; .*title \(Text\)"),
        ({"name": "maxis"}, r"maxis: no data set prepared by tfds \(prepared in .*: minis\); .*tfds build maxis"),
        ({"name": "minis/small"}, "minis/small: no data set prepared by tfds"),
    ],
)
def test_wrong_names_are_refused(prepared: dict[str, Path], options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        source(prepared["tfrecord"], **options)


def test_a_version_folder_of_another_data_set_is_refused(prepared: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="holds the data set minis, not ade; fix photos.source"):
        source(prepared["tfrecord"] / "minis/1.2.0", name="ade")


def test_colours_as_masks_are_refused(prepared: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="train/000000 colours: a mask of mode RGB; class indices are wanted"):
        source(prepared["tfrecord"], masks="colours").load("000000")


@pytest.mark.parametrize(
    ("names", "photo"),
    [("annotation image image_left", "image"), ("annotation image_left", "image_left"), ("b a", "a")],
)
def test_the_photo_is_found_by_its_name(names: str, photo: str) -> None:
    features = tfds.features.FeaturesDict({name: tfds.features.Image() for name in names.split()})
    assert find_columns(tfds, Path(), features, "") == (photo, "")


def test_a_data_set_without_photos_is_refused() -> None:
    features = tfds.features.FeaturesDict(
        {"mask": tfds.features.Image(), "depth": tfds.features.Image(shape=(2, 2, 1))}
    )
    with pytest.raises(UserError, match=r"no image feature for the photo; it has depth \(Image\), mask \(Image\)"):
        find_columns(tfds, Path(), features, "mask")


def altered(prepared: dict[str, Path], to: Path) -> Path:
    """A shard of `train`, the second, in a copy of the data set."""
    rewrite(prepared["array_record"], to)
    return to / "minis/1.2.0/minis-train.tfrecord-00001-of-00002"


@pytest.mark.parametrize("kind", ["tfrecord", "array_record"])
def test_a_damaged_record_is_a_failure_of_its_photo(prepared: dict[str, Path], tmp_path: Path, kind: str) -> None:
    shutil.copytree(prepared[kind], tmp_path, dirs_exist_ok=True)
    shard = min((tmp_path / "minis/1.2.0").glob("minis-train.*"))
    shard.write_bytes(shard.read_bytes().replace(b"IHDR", b"ihdr", 1))
    photos = source(tmp_path)
    with pytest.raises(PhotoError, match="record .*(does not fit|RuntimeError)"):
        [photos.load(photo_id) for photo_id in photos.list()]


def test_a_missing_shard_stops_the_run_before_it_begins(prepared: dict[str, Path], tmp_path: Path) -> None:
    altered(prepared, tmp_path).unlink()
    with pytest.raises(UserError, match="train.tfrecord-00001-of-00002: no such file; 1 of 2 files are missing"):
        source(tmp_path)
    assert source(tmp_path, "validation").list()


def test_a_damaged_description_names_the_folder(prepared: dict[str, Path], tmp_path: Path) -> None:
    altered(prepared, tmp_path)
    (tmp_path / "minis/1.2.0/features.json").unlink()
    with pytest.raises(UserError, match="minis/1.2.0: tfds cannot read it"):
        source(tmp_path)


def test_photos_too_large_and_photos_that_do_not_fit_their_masks(prepared: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(PhotoError, match="more than photos.max_pixels = 30"):
        source(prepared["tfrecord"], max_pixels=30).load("000006")
    shard = altered(prepared, tmp_path)
    _rgb, classes = pixels("train", 0)
    features = tfds.builder_from_directory(str(shard.parent)).info.features
    record = features.serialize_example(row("train", 0) | {"annotation": png(classes[1:])})
    shard.with_name("minis-train.tfrecord-00000-of-00002").write_bytes(frame(record) * 3)
    with pytest.raises(UserError, match="train/000000 annotation: 6 x 3 px, but its photo image has 6 x 4"):
        source(tmp_path).load("000000")


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match="pip install tensorflow-datasets"):
        source(tmp_path)


def test_neither_tensorflow_nor_a_model_library_is_imported(prepared: dict[str, Path]) -> None:
    code = (
        "import sys; from pathlib import Path; from labelgen.sources.tfds import tfds_source\n"
        "from labelgen.sources.photos import IndexTruth\n"
        f"root, values = Path({str(prepared['tfrecord'])!r}), IndexTruth(None, 255)\n"
        "s = tfds_source(root, 'minis', 'train', 'annotation', values, 99)\n"
        "s.load('000000'); print(sorted({'tensorflow', 'torch', 'jax'} & {m.split('.')[0] for m in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
