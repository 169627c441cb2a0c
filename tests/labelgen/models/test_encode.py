import json

import numpy as np
import pytest

from labelgen.core.errors import UserError
from labelgen.core.geometry import crop_windows, resize
from labelgen.data.records import EvidenceRow, FeatureRow
from labelgen.models.clip import ClipEncoder
from labelgen.models.teachers import Encoders
from labelgen.sources.photos import Photo
from tests.worlds import tiny_models


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_models.write(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def config(folder):
    return tiny_models.config(folder)


@pytest.fixture
def encoders(config):
    return Encoders(config)


def photo(*size_hw, truth=False):
    image = np.random.default_rng(size_hw).integers(0, 256, (*size_hw, 3), np.uint8)
    return Photo("beach/1", image, np.zeros(size_hw, np.uint8) if truth else None)


def test_rows_say_the_same_photo_and_survive_their_bytes(encoders):
    features, evidence, truth = encoders.encode_photo(photo(60, 90, truth=True))
    assert features.photo_id == evidence.photo_id == truth.photo_id == "beach/1"
    assert features.size_hw == evidence.size_hw == evidence.masks.size_hw == (60, 90)
    assert features.grid_hw == evidence.grid_hw == (4, 6) and features.box_xyxy == (0, 0, 90, 60)
    assert features.features.shape == (*encoders.grid_hw, encoders.feature_width) == (6, 6, 32)
    assert not features.features[4:].any() and features.features[:4].any(-1).all()
    assert evidence.crops.dtype == np.float16 and evidence.crops.shape == (len(evidence.crop_boxes), 24)
    assert {name: value.shape for name, value in evidence.dense.items()} == {
        "maskclip": (4, 6, encoders.text_width),
        "proxyclip": (4, 6, encoders.text_width),
    }
    np.testing.assert_array_equal(FeatureRow.decode(features.encode()).features, features.features)
    np.testing.assert_array_equal(EvidenceRow.decode(evidence.encode()).crops, evidence.crops)


@pytest.mark.parametrize(("size_hw", "grid_hw"), [((60, 90), (4, 6)), ((90, 60), (4, 3))])
def test_rows_of_a_landscape_grid_and_windows(config, size_hw, grid_hw):
    config.encoder.update(size_px=48, height_px=32, window_px=24, stride_px=16)
    encoders = Encoders(config)
    features, evidence, _ = encoders.encode_photo(photo(*size_hw))
    assert encoders.grid_hw == (4, 6) and features.features.shape == (4, 6, 32)
    assert features.grid_hw == evidence.grid_hw == grid_hw
    assert not features.features[:, grid_hw[1] :].any() and features.features[:, : grid_hw[1]].any(-1).all()
    assert {value.shape for value in evidence.dense.values()} == {(*grid_hw, encoders.text_width)}
    said = encoders.identity()["encoder"]
    assert (said["height_px"], said["window_px"], said["stride_px"]) == (32, 24, 16)


def test_a_photo_without_truth_has_no_truth_row(encoders):
    assert encoders.encode_photo(photo(30, 20))[2] is None


def test_bytes_depend_on_the_photo_alone(config, encoders):
    first = [row.encode() for row in encoders.encode_photo(photo(60, 90))[:2]]
    encoders.encode_photo(photo(33, 20))
    assert [row.encode() for row in encoders.encode_photo(photo(60, 90))[:2]] == first
    assert [row.encode() for row in Encoders(config).encode_photo(photo(60, 90))[:2]] == first


@pytest.mark.parametrize("size_hw", [(60, 90), (48, 48), (1, 300)])
def test_crops_that_are_windows_are_embedded_once_and_alike(config, encoders, monkeypatch, size_hw):
    """In the frame of short side 48, the windows of 32 px are the crops of scale .67."""
    seen = []
    inputs = ClipEncoder.inputs

    def counting(self, images, count):
        seen.append(len(images))
        return inputs(self, images, count)

    monkeypatch.setattr(ClipEncoder, "inputs", counting)
    image = photo(*size_hw).image
    _, evidence, _ = encoders.encode_photo(Photo("a", image))
    clip = encoders._clip
    parts = crop_windows(size_hw, 32, config.clip.crop_scales)
    pixels = np.concatenate([part.cut(resize(image, part.frame_hw, clip.resample)) for part in parts])
    boxes = np.concatenate([part.boxes() for part in parts])
    assert sum(seen) < len(pixels) + len(parts[2].starts_yx)
    _, unique = np.unique(boxes, axis=0, return_index=True)
    unique = np.sort(unique)
    np.testing.assert_array_equal(evidence.crop_boxes, boxes[unique])
    np.testing.assert_allclose(evidence.crops, clip.crops(pixels[unique]).numpy(), atol=1e-3)


@pytest.mark.parametrize("size_hw", [(1, 1), (1, 500), (500, 1), (7, 2000)])
def test_photos_of_a_pixels_height_are_encoded(encoders, size_hw):
    features, evidence, _ = encoders.encode_photo(photo(*size_hw))
    assert np.isfinite(features.features.astype(np.float32)).all()
    assert all(np.isfinite(value).all() and value.shape[:2] == features.grid_hw for value in evidence.dense.values())
    assert np.isfinite(evidence.crops).all() and evidence.crop_boxes.max() <= 1.0001


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_encodes_all_three(config, encoders, dtype):
    config.dtype = dtype
    half, exact = Encoders(config).encode_photo(photo(60, 90))[1], encoders.encode_photo(photo(60, 90))[1]
    assert (half.crops.astype(np.float32) * exact.crops.astype(np.float32)).sum(1).min() > 0.99
    assert not np.array_equal(half.crops, exact.crops)
    assert half.masks.iou.dtype == np.float32


def test_identity_is_json_without_paths_and_changes_with_what_matters(config, encoders, folder, tmp_path):
    identity = encoders.identity()
    assert json.loads(json.dumps(identity)) == identity
    assert str(folder) not in json.dumps(identity)
    assert {len(identity[name]["sha256"]) for name in ("clip", "sam", "encoder")} == {64}
    config.clip.batch_size, config.weights_dir = 2, str(tiny_models.write(tmp_path))
    assert Encoders(config).identity() == identity
    config.clip.stride_px = 8
    assert Encoders(config).identity() != identity


def test_where_the_time_went(encoders):
    encoders.encode_photo(photo(20, 20))
    assert [part.split()[0] for part in encoders.times.summary().split(", ")] == [
        "encoder",
        "clip",
        "sam",
        "device",
    ]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window_px": 30}, "clip.window_px = 30 is no multiple of the CLIP's patch of 8 px; set 32"),
        ({"short_side_px": 24}, "clip.short_side_px = 24 is less than clip.window_px = 32"),
        ({"variants": ("maskclip", "x")}, "clip.variants has 'x'"),
    ],
)
def test_windows_that_do_not_fit_are_refused(config, fields, message):
    config.clip.update(**fields)
    with pytest.raises(UserError, match=message):
        Encoders(config)
