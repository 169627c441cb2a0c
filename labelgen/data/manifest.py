"""What DATA, and labels/NAME in it, say of themselves: whose they are, and what makes them complete.

The marker of a folder (config.json, encoders.json) is claimed before anything is written into it: who comes with other
settings is told the first that differs. When all shards are there, functions of these alone write the last files:
TensorFlow Datasets' description of each family's folder (features.json says what a record holds, dataset_info.json
which shards there are; written without tensorflow_datasets, read by `tfds.builder_from_directory(DATA/features)`), and
then dataset.json or labels.json.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from labelgen.core.errors import UserError
from labelgen.core.files import check_same, digest, read_json, write_atomic, write_first, write_json
from labelgen.core.ontology import label_dtype
from labelgen.data.arrivals import FOLDER
from labelgen.data.records import FORMAT
from labelgen.data.shards import Shard, failures_path, sweep
from labelgen.data.tfrecord import ShardReader, files_of
from labelgen.data.thumbnail import SIDE

FAMILIES = ("features", "evidence", "truth")
DTYPE = "dtype.json"
"""What the first of several workers computes in, until photos are encoded: from then on encoders.json says it."""
_DTYPE_FIX = "set --config.dtype={} or auto, or take another --out"
Sizes = dict[str, tuple[list[int], int]]
"""Files of a split's list (labelgen.data.tfrecord.files_of) -> (rows of each shard, bytes of all)."""


def claim(path: Path, fields: Mapping[str, Any], what: str, fix: str, begun: bool = True) -> dict[str, Any]:
    """The fields of the marker at `path`, written now when it is new, or when nothing was begun that it speaks for.

    UserError, naming the first field that differs, when the marker there was written with other fields: `what` (a
    folder) belongs to another config, and `fix` is what to do.
    """
    if not begun or not path.exists():
        write_json(path, fields)
    there = read_json(path, fix)
    check_same(there, fields, what, fix)
    return there


def check_dtype(config: ConfigDict, data: Path) -> None:
    """UserError when photos of `data` were encoded in another dtype than one that the config names."""
    if there := begun_dtype(data, shared=False):
        check_dtype_is(config, there, data)


def check_dtype_is(config: ConfigDict, there: str, data: Path) -> None:
    """UserError when the config names another dtype than the one that `data` is in."""
    if config.dtype != "auto":
        check_same({"dtype": there}, {"dtype": config.dtype}, str(data), _DTYPE_FIX.format(there))


def begun_dtype(data: Path, shared: bool) -> str:
    """The dtype in which DATA was begun, on whatever machine; empty: none yet. shared: with other workers, one of which
    may have opened its models and not written a photo yet."""
    if is_begun(data) and (data / "encoders.json").exists():
        there: str = read_json(data / "encoders.json", "delete DATA and encode again")["encoders"]["dtype"]
        return there
    return str(read_json(data / DTYPE, "delete it")["dtype"]) if shared and (data / DTYPE).exists() else ""


def first_dtype(data: Path, dtype: str) -> str:
    """Of several workers that begin DATA at the same time, what the first one computes in: all do."""
    first: str = write_first(data / DTYPE, {"dtype": dtype})["dtype"]
    return first


def forget_dtype(data: Path) -> None:
    """Before the workers of a cluster begin: what others began, of whom no photo is left, counts no more."""
    if not is_begun(data):
        (data / DTYPE).unlink(missing_ok=True)


def is_begun(data: Path) -> bool:
    """Whether a photo was encoded, or listed as failed: from then on DATA belongs to its config."""
    files = (path for family in FAMILIES for path in (data / family).glob("*.tfrecord*"))
    return any(path.stat().st_size for path in files)


def is_complete(data: Path) -> bool:
    """Whether dataset.json is there and speaks of all photos that config.json has: some may have come since."""
    path = data / "dataset.json"
    if not path.exists():
        return False
    fix = "run labelgen.run with it as --out"
    there, wanted = read_json(path, fix)["splits"], read_json(data / "config.json", fix)["photos"]
    return all(covered(there, split) >= len(fields.get("later", ())) for split, fields in wanted.items())


def covered(splits: Mapping[str, Any], split: str) -> int:
    """How many arrivals dataset.json's `splits` speak of in a split; -1: of none of its photos."""
    return len(splits[split].get("later", ())) if split in splits else -1


def name_truth(data: Path, names: Sequence[str]) -> list[str]:
    """Splits whose truth was nothing but numbers until now, where nothing is labelled yet: `names` are its classes from
    here on. A DATA that was labelled before stays as it is: which words were the first is not known."""
    named: set[str] = set()
    if any(data.glob("labels/*/config.json")):
        return []
    for path, field in ((data / "dataset.json", "splits"), (data / "config.json", "photos")):
        info = read_json(path, "run the encode stage first") if path.exists() else {field: {}}
        nameless = [s for s, fields in info[field].items() if fields["truth"] and not fields["truth_classes"]]
        for split in nameless:
            info[field][split]["truth_classes"] = list(names)
        if nameless:
            write_json(path, info)
        named |= set(nameless)
    return sorted(named)


def digest_of_list(names: Iterable[str]) -> str:
    """labelgen.core.files.digest of a list, which may be too long for one text."""
    content = hashlib.sha256(b"[")
    for i, name in enumerate(names):
        content.update(("," * bool(i) + json.dumps(name)).encode())
    content.update(b"]")
    return content.hexdigest()


def list_failures(data: Path, shards: Sequence[Shard], left_out: Iterable[Mapping[str, str]]) -> None:
    """failures.jsonl, once every shard is finished: the photos that could not be used, or not as they are (these say
    `used`), then what was none."""
    failures = b"".join(failures_path(data, shard).read_bytes() for shard in shards)
    lines = "".join(json.dumps(line, sort_keys=True) + "\n" for line in left_out)
    write_atomic(data / "failures.jsonl", failures + lines.encode())


def used_but(data: Path) -> Counter[str]:
    """What was done to pixels that a file says too little of -> how many photos, by failures.jsonl."""
    lines = (data / "failures.jsonl").read_bytes().splitlines()
    used = (line for line in map(json.loads, lines) if line.get("used"))
    return Counter(line["reason"] for line in used)


def finish_data(
    data: Path, shards: Sequence[Shard], marker: Mapping[str, Any], encoders: Mapping[str, Any], classes: int | None
) -> None:
    """The tfds descriptions and, last, dataset.json, once every shard is finished and failures.jsonl is written.

    marker, encoders: what config.json and encoders.json say. UserError when not one photo could be used.
    """
    photos = marker["photos"]
    features = sizes(data / "features", shards)
    rows = {split: counts for split, (counts, _) in features.items()}
    if not sum(map(sum, rows.values())):
        raise UserError(f"{data / 'failures.jsonl'}: not one photo could be used; it says why, and what would fix it")
    with_truth = [shard for shard in shards if photos[shard.split]["truth"]]
    specs = {
        "features": feature_spec(
            encoders["grid_hw"], encoders["feature_width"], marker["config"]["encode"]["feature_dtype"]
        ),
        "evidence": evidence_spec(encoders["text_width"], marker["config"]["clip"]["variants"]),
        "truth": truth_spec(label_dtype(classes or 255).name),
    }
    for family, spec in specs.items():
        members = with_truth if family == "truth" else shards
        if members:
            sweep(data / family)
            found = features if family == "features" else sizes(data / family, members)
            _check_rows(data / family, members, found, rows)
            write(data / family, f"fmbseg_{family}", spec, found)
    sweep(data)
    sweep(data / FOLDER)
    info = {
        "format": FORMAT,
        "splits": {split: _split(split, shards, rows, fields) for split, fields in photos.items()},
        "grid_hw": encoders["grid_hw"],
        "feature_width": encoders["feature_width"],
        "text_width": encoders["text_width"],
        "encoders": encoders["encoders"],
        "config": marker["config"],
    }
    write_json(data / "dataset.json", info)


def _split(
    split: str, shards: Sequence[Shard], rows: Mapping[str, Sequence[int]], fields: Mapping[str, Any]
) -> dict[str, Any]:
    """What dataset.json says of a split; fields: what config.json says."""
    counts = Counter(shard.arrival for shard in shards if shard.split == split)
    later = [{**each, "shards": counts[i]} for i, each in enumerate(fields.get("later", ()), 1)]
    in_order = [count for i in sorted(counts) for count in rows[files_of(split, i)]]
    return {"rows": in_order, **fields, **({"later": later} if later else {})}


def _check_rows(folder: Path, shards: Sequence[Shard], row_counts: Sizes, rows: Mapping[str, Sequence[int]]) -> None:
    """UserError unless each shard of a family has as many rows as that of features."""
    for shard in shards:
        there, wanted = row_counts[shard.files][0][shard.index], rows[shard.files][shard.index]
        if there != wanted:
            raise UserError(
                f"{folder / shard.name}: has {there} rows, features {wanted}; delete {folder / shard.name}.index and "
                "run again: the shard is done anew"
            )


def finish_labels(
    folder: Path,
    shards: Sequence[Shard],
    splits: Sequence[str],
    fields: Mapping[str, Any],
    grid_hw: tuple[int, int],
    remarks: Mapping[str, int],
) -> None:
    """The tfds description and, last, labels.json: `fields`, their digest, the labelled splits, how many arrivals of
    photos these labels cover, and remarks if any."""
    members = [shard for shard in shards if shard.split in splits]
    sweep(folder)
    spec = label_spec(grid_hw, label_dtype(len(fields["ontology"]["names"])).name)
    write(folder, "fmbseg_labels", spec, sizes(folder, members))
    said: dict[str, Any] = {"remarks": remarks} if remarks else {}
    if arrivals := {split: last for split in splits if (last := max(s.arrival for s in members if s.split == split))}:
        said["arrivals"] = arrivals
    write_json(folder / "labels.json", {**fields, "digest": digest(fields), "splits": sorted(splits), **said})


def sizes(folder: Path, shards: Sequence[Shard]) -> Sizes:
    """Rows and bytes of the finished shards of one family, by the files of a split's list."""
    rows: dict[str, list[int]] = {}
    size: Counter[str] = Counter()
    for shard in shards:
        path = folder / shard.name
        rows.setdefault(shard.files, []).append(len(ShardReader(path)))
        size[shard.files] += path.stat().st_size
    return {files: (counts, size[files]) for files, counts in rows.items()}


def write(folder: Path, name: str, spec: dict[str, Any], splits: Mapping[str, tuple[Sequence[int], int]]) -> None:
    """The two files of one folder. splits: Sizes; photos that came later, SPLIT.1, are the split SPLIT-1 of tfds."""
    write_json(folder / "features.json", spec)
    info = {
        "name": name,
        "version": "1.0.0",
        "fileFormat": "tfrecord",
        "splits": [
            {
                "name": files.replace(".", "-"),
                "filepathTemplate": f"{files if '.' in files else '{SPLIT}'}-{{SHARD_X_OF_Y}}.{{FILEFORMAT}}",
                "shardLengths": [str(count) for count in rows],
                "numBytes": str(size),
            }
            for files, (rows, size) in sorted(splits.items())
        ],
    }
    write_json(folder / "dataset_info.json", info)


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
    "runs": _tensor("int32", -1),  # written as uint32, which TensorFlow does not decode; the same bits below 2**31
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
    thumbnail = _tensor("uint8", SIDE, SIDE, 3)
    features = _tensor(dtype, *grid_hw, width)
    return _dict({**_PHOTO, "box_xyxy": box, "features": features, "thumbnail": thumbnail})


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
