"""TensorFlow Datasets' description of a family's folder: `tfds.builder_from_directory(DATA/features)` reads it.

features.json says what a record holds, dataset_info.json which shards there are. Written without tensorflow_datasets.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelgen.core.files import write_json

_MODULE = "tensorflow_datasets.core.features"


def _tensor(dtype: str, *shape: int, encoding: str = "bytes") -> dict[str, Any]:
    """shape: -1 where it differs from record to record."""
    fields = {"dtype": dtype, "encoding": encoding, "shape": {"dimensions": [str(n) for n in shape]}}
    return {"pythonClassName": f"{_MODULE}.tensor_feature.Tensor", "tensor": fields}


def _image(dtype: str) -> dict[str, Any]:
    fields = {"dtype": dtype, "encodingFormat": "png", "shape": {"dimensions": ["-1", "-1", "1"]}}
    return {"pythonClassName": f"{_MODULE}.image_feature.Image", "image": fields}


def _dict(features: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "pythonClassName": f"{_MODULE}.features_dict.FeaturesDict",
        "featuresDict": {"features": dict(features)},
    }


_ID = {"photo_id": {"pythonClassName": f"{_MODULE}.text_feature.Text", "text": {}}}
_PHOTO = _ID | {name: _tensor("int64", 2, encoding="none") for name in ("size_hw", "grid_hw")}
_MASKS = {
    "runs": _tensor("uint32", -1),
    "offsets": _tensor("int64", -1),
    "boxes": _tensor("float32", -1, 4),
    "iou": _tensor("float32", -1),
    "stability": _tensor("float32", -1),
    "automatic": _tensor("bool", -1),
    "points_xy": _tensor("float32", -1, 2),
    "point_masks": _tensor("int32", -1, 3),
}


def feature_spec(grid_hw: tuple[int, int], width: int, dtype: str) -> dict[str, Any]:
    """features.json of FeatureRow: features [h, w, D]."""
    box = _tensor("float32", 4, encoding="none")
    return _dict({**_PHOTO, "box_xyxy": box, "features": _tensor(dtype, *grid_hw, width)})


def evidence_spec(width: int, variants: Sequence[str]) -> dict[str, Any]:
    """features.json of EvidenceRow: embeddings of E = width."""
    dense = {variant: _tensor("float16", -1, -1, width) for variant in variants}
    crops = {"crops": _tensor("float16", -1, width), "crop_boxes": _tensor("float32", -1, 4)}
    return _dict({**_PHOTO, **crops, "dense": _dict(dense), "masks": _dict(_MASKS)})


def truth_spec(dtype: str) -> dict[str, Any]:
    """features.json of TruthRow."""
    return _dict({**_ID, "label_map": _image(dtype)})


def label_spec(grid_hw: tuple[int, int], dtype: str) -> dict[str, Any]:
    """features.json of LabelRow: targets [h, w, 3]."""
    return _dict(
        {
            **_ID,
            "classes": _tensor("int32", -1, encoding="none"),
            "scores": _tensor("float32", -1, encoding="none"),
            "label_map": _image(dtype),
            "confidence": _image("uint8"),
            "target_classes": _tensor("uint16", *grid_hw, 3),
            "target_shares": _tensor("uint8", *grid_hw, 3),
        }
    )


def write(folder: Path, name: str, spec: dict[str, Any], splits: Mapping[str, tuple[Sequence[int], int]]) -> None:
    """The two files of one folder. splits: split -> (rows of each shard, bytes of all)."""
    write_json(folder / "features.json", spec)
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": split,
                "filepathTemplate": "{SPLIT}-{SHARD_X_OF_Y}.{FILEFORMAT}",
                "shardLengths": [str(count) for count in rows],
                "numBytes": str(size),
            }
            for split, (rows, size) in sorted(splits.items())
        ],
    }
    write_json(folder / "dataset_info.json", info)
