"""The last files of a stage: what makes DATA, or labels/NAME in it, complete; functions of the shards alone."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from labelgen import tfds
from labelgen.config import digest
from labelgen.dataset import FORMAT, write_json
from labelgen.errors import UserError
from labelgen.files import write_atomic
from labelgen.plan import Shard
from labelgen.records import label_dtype
from labelgen.shards import failures_path, sweep
from labelgen.tfrecord import ShardReader

Sizes = dict[str, tuple[list[int], int]]
"""split -> (rows of each shard, bytes of all)."""


def sizes(folder: Path, shards: Sequence[Shard]) -> Sizes:
    """Rows and bytes of the finished shards of one family, by split."""
    rows: dict[str, list[int]] = {}
    size: Counter[str] = Counter()
    for shard in shards:
        path = folder / shard.name
        rows.setdefault(shard.split, []).append(len(ShardReader(path)))
        size[shard.split] += path.stat().st_size
    return {split: (counts, size[split]) for split, counts in rows.items()}


def finish_data(
    data: Path, shards: Sequence[Shard], marker: Mapping[str, Any], encoders: Mapping[str, Any], classes: int | None
) -> None:
    """failures.jsonl, the tfds descriptions and, last, dataset.json, once every shard is finished.

    marker, encoders: what config.json and encoders.json say. UserError when not one photo could be used.
    """
    photos = marker["photos"]
    failures = b"".join(failures_path(data, shard).read_bytes() for shard in shards)
    write_atomic(data / "failures.jsonl", failures)
    features = sizes(data / "features", shards)
    rows = {split: counts for split, (counts, _) in features.items()}
    if not sum(map(sum, rows.values())):
        raise UserError(f"{data / 'failures.jsonl'}: not one photo could be used; it says why, and what would mend it")
    with_truth = [shard for shard in shards if photos[shard.split]["truth"]]
    specs = {
        "features": tfds.feature_spec(
            encoders["grid_hw"], encoders["feature_width"], marker["config"]["encode"]["feature_dtype"]
        ),
        "evidence": tfds.evidence_spec(encoders["text_width"], marker["config"]["clip"]["variants"]),
        "truth": tfds.truth_spec(label_dtype(classes or 255).name),
    }
    for family, spec in specs.items():
        members = with_truth if family == "truth" else shards
        if members:
            sweep(data / family)
            found = features if family == "features" else sizes(data / family, members)
            _check_rows(data / family, members, found, rows)
            tfds.write(data / family, f"fmbseg_{family}", spec, found)
    sweep(data)
    info = {
        "format": FORMAT,
        "splits": {split: {"rows": rows[split], **photos[split]} for split in photos},
        "grid_hw": encoders["grid_hw"],
        "feature_width": encoders["feature_width"],
        "text_width": encoders["text_width"],
        "encoders": encoders["encoders"],
        "config": marker["config"],
    }
    write_json(data / "dataset.json", info)


def _check_rows(folder: Path, shards: Sequence[Shard], found: Sizes, rows: Mapping[str, Sequence[int]]) -> None:
    """UserError unless each shard of a family has as many rows as that of features."""
    for shard in shards:
        there, wanted = found[shard.split][0][shard.index], rows[shard.split][shard.index]
        if there != wanted:
            raise UserError(
                f"{folder / shard.name}: has {there} rows, features {wanted}; delete {folder / shard.name}.index and "
                "run again: the shard is done anew"
            )


def finish_labels(
    folder: Path, shards: Sequence[Shard], splits: Sequence[str], fields: Mapping[str, Any], grid_hw: tuple[int, int]
) -> None:
    """The tfds description and, last, labels.json: `fields`, their digest and the labelled splits."""
    members = [shard for shard in shards if shard.split in splits]
    sweep(folder)
    spec = tfds.label_spec(grid_hw, label_dtype(len(fields["ontology"]["names"])).name)
    tfds.write(folder, "fmbseg_labels", spec, sizes(folder, members))
    write_json(folder / "labels.json", {**fields, "digest": digest(fields), "splits": sorted(splits)})
