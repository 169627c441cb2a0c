"""What grows with the number of photos: a DATA of tiny rows, made fast, and the costs to list, plan, open and read it.

    python -m benchmarks.scale --out=FOLDER                   # 10^4, 10^5 and 10^6 rows; a table, and FOLDER/scale.json
    python -m benchmarks.scale --out=FOLDER --rows=10000      # one size

The rows are true ones but tiny (a patch, D = 1), in shards of 64, so that what is measured is not their bytes but
names, indices, lists and descriptions. Each size is measured in a process of its own: seconds, megabytes that stay, and
files opened. The last column is the largest size scaled up to 10^7; random rows are as many for every size. Photos are
listed as a worker lists them: empty files of a folder, a thousand in each.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from labelgen.core.command import command, parser
from labelgen.core.files import write_json
from labelgen.core.shipped import HOME
from labelgen.data.dataset import Dataset
from labelgen.data.manifest import digest_of_list, feature_spec, sizes, write
from labelgen.data.records import FeatureRow, LabelRow
from labelgen.data.shards import Finished, plan
from labelgen.data.tfrecord import frame
from labelgen.sources.folders import folder_source

PHOTOS_PER_SHARD = 64
LARGE = 10**7
READS = 20_000
_INDEX = b"fmbidx01"
_BESIDE = (".index", ".failures.jsonl")
_LINKS = 50_000  # names that one file may have


def write_data(data: Path, rows: int, families: Sequence[str] = ("features", "evidence", "labels/tiny")) -> None:
    """A complete DATA of one split, `train`; evidence is empty. Shards of one length are one file of many names."""
    shards = plan({"train": rows}, PHOTOS_PER_SHARD)
    for family in families:
        (data / family).mkdir(parents=True)
        first: dict[tuple[int, int], Path] = {}
        for shard in shards:
            path, count = data / family / shard.name, shard.stop - shard.start
            original = first.setdefault((count, shard.index // _LINKS), path)
            if original is path:
                for name, content in zip(("", *_BESIDE), _shard(family, count), strict=True):
                    Path(f"{path}{name}").write_bytes(content)
                continue
            for name in ("", *_BESIDE):
                os.link(f"{original}{name}", f"{path}{name}")
    counts = [shard.stop - shard.start for shard in shards]
    split = {"rows": counts, "truth": False, "truth_classes": None, "count": rows, "digest": ""}
    info = {"format": 1, "splits": {"train": split}, "grid_hw": [1, 1], "feature_width": 1, "text_width": 2}
    write_json(data / "dataset.json", {**info, "encoders": {}, "config": {}})
    write(data / "features", "fmbseg_features", feature_spec((1, 1), 1, "float32"), {"train": (counts, 1)})
    write_json(data / "labels/tiny/labels.json", {"splits": ["train"]})


def _shard(family: str, count: int) -> tuple[bytes, bytes, bytes]:
    """A shard's bytes, its index's and those of its list of failures."""
    records = [frame(_row(family, f"{i:03}")) for i in range(count)]
    ends = np.cumsum([0, *map(len, records)])
    index = np.array([ends[-1], count, *ends[:-1]], "<u8")
    return b"".join(records), _INDEX + index.tobytes(), b""


def _row(family: str, name: str) -> bytes:
    if family == "features":
        return FeatureRow(name, (1, 1), (0.0, 0.0, 1.0, 1.0), (1, 1), np.ones((1, 1, 1), np.float32)).encode()
    if family == "evidence":
        return b""
    pixel, target = np.zeros((1, 1), np.uint8), np.zeros((1, 1, 3), np.uint16)
    scores = np.ones(1, np.float32)
    return LabelRow(name, np.zeros(1, np.int32), scores, pixel, pixel, target, target.astype(np.uint8)).encode()


def memory_mb() -> float:
    """What the process holds now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


@contextmanager
def openings() -> Iterator[Callable[[], int]]:
    """Counts the files that Python opens inside."""
    counted = [0]
    active = [True]

    def hook(event: str, arguments: Any) -> None:
        counted[0] += active[0] and event == "open"

    sys.addaudithook(hook)
    try:
        yield lambda: counted[0]
    finally:
        active[0] = False


def cost(work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
    """What `work` gives; its seconds, megabytes that stay, files it opened."""
    before, start = memory_mb(), time.perf_counter()
    with openings() as opened:
        result = work()
        return result, {"s": time.perf_counter() - start, "opened": opened(), "mb": memory_mb() - before}


def read_at_random(data: Dataset, reads: int) -> None:
    """Targets and features of rows drawn evenly, as a training reads them."""
    features, labels = data.reader("features", "train"), data.label_reader("tiny", "train")
    for row in np.random.default_rng(0).integers(0, len(features), reads):
        FeatureRow.decode(features[int(row)])
        LabelRow.decode_targets(labels[int(row)])


def measure(folder: Path, rows: int) -> dict[str, Any]:
    """The figures of one size."""
    data = folder / "data"
    figures: dict[str, Any] = {"rows": rows, "shards": len(plan({"train": rows}, PHOTOS_PER_SHARD))}
    if not (data / "dataset.json").exists():
        write_data(data, rows)
        _photos(folder / "photos", rows)
    source, figures["list photos"] = cost(lambda: folder_source(folder / "photos", 1))
    _, figures["digest their ids"] = cost(lambda: digest_of_list(source.list()))
    shards, figures["plan"] = cost(lambda: plan({"train": rows}, PHOTOS_PER_SHARD))
    finished, figures["list DATA"] = cost(lambda: Finished(data, ["features", "evidence"]))
    _, figures["what is finished"] = cost(lambda: all(finished.has(s, ["features", "evidence"]) for s in shards))
    _, figures["finish: open every index"] = cost(lambda: sizes(data / "features", shards))
    opened, figures["open for training"] = cost(lambda: Dataset.open(data))
    _, figures["its two readers"] = cost(
        lambda: (opened.reader("features", "train"), opened.label_reader("tiny", "train"))
    )
    figures["all that, peak MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    _, figures[f"{READS} random rows"] = cost(lambda: read_at_random(opened, READS))
    figures["dataset.json, kB"] = os.path.getsize(data / "dataset.json") / 1e3
    figures["dataset_info.json, kB"] = os.path.getsize(data / "features/dataset_info.json") / 1e3
    return figures


def _photos(folder: Path, count: int) -> None:
    first = folder
    for i in range(count):
        if i % 1000 == 0:
            (folder / f"{i // 1000:05}").mkdir(parents=True)
            first = folder / f"{i // 1000:05}/photo_{i:08}.jpg"
            first.touch()
        else:
            os.link(first, folder / f"{i // 1000:05}/photo_{i:08}.jpg")


def report(sizes_measured: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the table: `seconds, megabytes, files opened` of each part; the last one by rule of three."""
    largest = sizes_measured[-1]
    factor = LARGE / largest["rows"]
    scaled = {name: _times(value, 1 if "random" in name else factor) for name, value in largest.items()}
    return [{name: _cell(value) for name, value in figures.items()} for figures in [*sizes_measured, scaled]]


def _times(value: Any, factor: float) -> Any:
    return {name: part * factor for name, part in value.items()} if isinstance(value, dict) else value * factor


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return f"{value['s']:.3g} s, {value['mb']:.3g} MB, {value['opened']:.0f}"
    return f"{value:,.0f}"


def main(args: argparse.Namespace) -> int:
    """Measures each size in a process of its own."""
    out = Path(args.out)
    if args.one:
        print(json.dumps(measure(out, args.one)))
        return 0
    measured = []
    for rows in map(int, args.rows.split(",")):
        folder = out / str(rows)
        folder.mkdir(parents=True, exist_ok=True)
        one = [sys.executable, "-m", "benchmarks.scale", f"--out={folder}", f"--one={rows}"]
        measured.append(json.loads(subprocess.run(one, cwd=HOME, check=True, stdout=subprocess.PIPE).stdout))
        write_json(out / "scale.json", {"sizes": measured})
    cells = report(measured)
    for name in cells[0]:
        print(f"| {name} | " + " | ".join(row[name] for row in cells) + " |")
    print(f"wrote {out / 'scale.json'}; the folders of {out} can be deleted")
    return 0


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m benchmarks.scale`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--out", required=True, metavar="FOLDER", help="where the DATA are made and scale.json goes")
    flags.add_argument("--rows", default="10000,100000,1000000", metavar="N,N", help="sizes to measure, ascending")
    flags.add_argument("--one", type=int, default=0, help=argparse.SUPPRESS)
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
