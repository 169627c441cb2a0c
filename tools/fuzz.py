"""Every reader of foreign bytes under a fuzzer: a file is read or refused, in bounded time and memory.

    python -m tools.fuzz --seconds=600 --out=build/fuzz

Atheris (libFuzzer) changes small valid files, guided by which lines of labelgen they reach, for so many seconds a
reader. A fault is an error that is no UserError (or PhotoError), more than --timeout seconds for an input of at most
64 KiB, or more than 2 GiB. What caused one lies in OUT/READER/; OUT/fuzz.json has the counts. Each reader runs in a
process of its own. Wants `pip install atheris`.
"""

import argparse
import contextlib
import importlib
import io
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from labelgen.core.command import columns, command, parser, whole
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import write_json
from labelgen.core.progress import Progress

Read = Callable[[Path, bytes], None]
LARGEST_BYTES, MEMORY_MB = 1 << 16, 2048
HW = (12, 20)


class Reader(NamedTuple):
    """How bytes are read (the folder is the reader's own), and small valid files to begin with."""

    read: Read
    seeds: tuple[bytes, ...]


def main(args: argparse.Namespace) -> int:
    """Fuzz each reader in a process of its own, or be such a process."""
    if args.reader:
        fuzz_one(args.reader, args.seeds)
    found, out = {}, Path(args.out)
    names = [name for name in readers() if name in (args.readers or name).split(",")]
    if not names:
        raise UserError(f"--readers={args.readers}: none of {', '.join(readers())}")
    progress = Progress(len(names), "readers", "fuzz")
    for name in names:
        found[name] = _fuzzed(name, out / name, args.seconds, args.timeout)
        write_json(out / "fuzz.json", {"seconds": args.seconds, "readers": found})
        progress.add(1)
    progress.close()
    rows = [(name, str(its["inputs"]), str(its["edges"]), str(len(its["faults"]))) for name, its in found.items()]
    print(columns(("reader", "inputs", "edges", "faults"), rows, ("inputs", "edges", "faults")))
    faults = sum(len(its["faults"]) for its in found.values())
    print(
        f"wrote {out / 'fuzz.json'}: {faults} faults; next: a fix and a test for each, of what it is, not of its bytes"
    )
    return 1 if faults else 0


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    options = parser(__doc__, config=False)
    options.add_argument("--seconds", type=whole(1), default=60, help="a reader (default: %(default)s)")
    options.add_argument(
        "--timeout", type=whole(1), default=20, help="seconds an input may take (default: %(default)s)"
    )
    options.add_argument("--readers", default="", metavar="NAME,…", help="default: all")
    options.add_argument(
        "--out", default="build/fuzz", help="what caused a fault, and fuzz.json (default: %(default)s)"
    )
    options.add_argument("--reader", default="", help=argparse.SUPPRESS)
    options.add_argument("seeds", nargs="*", help=argparse.SUPPRESS)
    return options


def _fuzzed(name: str, out: Path, seconds: int, timeout: int) -> dict[str, Any]:
    """Of one reader: inputs tried, edges reached, and the files that caused faults."""
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        corpus.mkdir()
        for i, seed in enumerate(readers()[name].seeds):
            (corpus / f"seed-{i}").write_bytes(seed)
        line = [sys.executable, "-m", "tools.fuzz", f"--reader={name}", "--", str(corpus)]
        line += [f"-max_total_time={seconds}", f"-timeout={timeout}", f"-max_len={LARGEST_BYTES}"]
        line += [f"-rss_limit_mb={MEMORY_MB}", f"-artifact_prefix={out}/"]
        ended = subprocess.run(line, capture_output=True, text=True, errors="replace", check=False)
    counts = re.findall(r"#(\d+).*?cov: (\d+)", ended.stderr)
    inputs, edges = map(int, counts[-1]) if counts else (0, 0)
    faults = sorted(path.name for path in out.iterdir() if path.name != "log.txt")
    (out / "log.txt").write_text(ended.stdout[-20_000:] + ended.stderr[-20_000:], encoding="utf-8")
    if not counts and not faults:
        raise UserError(f"{name}: did not run; {out / 'log.txt'} says why")
    return {"inputs": inputs, "edges": edges, "faults": faults}


def fuzz_one(name: str, line: list[str]) -> None:
    """Never returns: libFuzzer's loop over one reader. line: folders and flags of libFuzzer's."""
    try:
        atheris: Any = importlib.import_module("atheris")
    except ImportError as error:
        raise UserError(f"Atheris does the fuzzing ({error}); pip install atheris") from error
    with atheris.instrument_imports(include=["labelgen.sources", "labelgen.data", "labelgen.core", "labelgen.formats"]):
        read = readers()[name].read
    with tempfile.TemporaryDirectory() as folder:

        def once(data: bytes) -> None:
            with contextlib.suppress(UserError, PhotoError):
                read(Path(folder), data)

        atheris.Setup(["fuzz", *line], once)
        atheris.Fuzz()


def readers() -> dict[str, Reader]:
    """Name -> reader. What they read with is imported here: a fuzzer instruments it on the way."""
    import numpy as np
    from PIL import Image

    from labelgen.core import ontology
    from labelgen.data import dataset, records, tfrecord
    from labelgen.sources import coco_masks, corrections, decoding, legends

    words = ontology.parse_words(["cat", "dog"], "words")

    def drawn(file: str) -> Read:
        def read(folder: Path, data: bytes) -> None:
            (folder / file).write_bytes(data)
            found = corrections.open_corrections(folder if file.endswith(".png") else folder / file, words)
            for name in found.names():
                found.load(name, HW)

        return read

    def labelme(folder: Path, data: bytes) -> None:
        (folder / "a.json").write_bytes(data)
        found = corrections.open_corrections(folder, words)
        for name in found.names():
            found.load(name, HW)

    def shard(folder: Path, data: bytes) -> None:
        path, index = folder / "train-00000-of-00001.tfrecord", int.from_bytes(data[:2])
        path.write_bytes(data[2 + index :])
        path.with_name(path.name + ".index").write_bytes(data[2 : 2 + index])
        reader = tfrecord.ShardReader(path)
        for row in range(len(reader)):
            reader[row]
        list(tfrecord.records_of(path))

    def written_shard() -> bytes:
        """The length of the index, the index, the shard."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "shard"
            with tfrecord.ShardWriter(path) as writer:
                writer.append(b"abc")
                writer.append(b"")
                writer.finish()
            index = path.with_name("shard.index").read_bytes()
            return len(index).to_bytes(2) + index + path.read_bytes()

    def legend(folder: Path, data: bytes) -> None:
        (folder / "labelmap.txt").write_bytes(data)
        legends.find_legend(folder)

    def embeddings(folder: Path, data: bytes) -> None:
        (folder / "words.npy").write_bytes(data)
        dataset.read_prototypes(folder / "words.npy", 2, None)

    def text(folder: Path, data: bytes) -> None:
        (folder / "words.txt").write_bytes(data)
        ontology.read_words(folder / "words.txt")

    def picture(image: Any, kind: str, **fields: Any) -> bytes:
        buffer = io.BytesIO()
        image.save(buffer, kind, **fields)
        return buffer.getvalue()

    def array(values: Any) -> bytes:
        buffer = io.BytesIO()
        np.save(buffer, values)
        return buffer.getvalue()

    grey, colours = Image.new("L", (20, 12), 1), Image.new("RGB", (20, 12), (9, 8, 7))
    deep = Image.fromarray(np.arange(240, dtype=np.uint16).reshape(12, 20) % 2)
    runs = coco_masks.encode_string(np.array([3, 5, 232]))
    coco = {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 12, "width": 20}],
        "categories": [{"id": 3, "name": "cat"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 3, "iscrowd": 0, "segmentation": [[1, 1, 9, 1, 9, 9]]},
            {
                "id": 2,
                "image_id": 1,
                "category_id": 3,
                "iscrowd": 1,
                "segmentation": {"size": [12, 20], "counts": runs},
            },
        ],
    }
    shape = {"label": "cat", "points": [[1, 1], [9, 1], [9, 9]], "shape_type": "polygon"}
    box = {"label": "dog", "points": [[1, 1], [9, 9]], "shape_type": "rectangle"}
    cvat = (
        '<annotations><image id="0" name="a.jpg" width="20" height="12">'
        '<polygon label="cat" points="1,1;9,1;9,9"/><box label="dog" xtl="1" ytl="1" xbr="4" ybr="5" rotation="30"/>'
        '<mask label="cat" rle="1, 2, 3" left="2" top="2" width="3" height="2"/></image></annotations>'
    )
    value = {"points": [[10, 10], [50, 10], [50, 50]], "polygonlabels": ["cat"]}
    common = {"original_width": 20, "original_height": 12, "from_name": "tag", "to_name": "image"}

    def task(kind: str, value: dict[str, Any]) -> bytes:
        result = {**common, "type": kind, "value": value}
        return json.dumps([{"id": 1, "data": {"image": "a.jpg"}, "annotations": [{"result": [result]}]}]).encode()

    def brushed(folder: Path, data: bytes) -> None:
        studio(folder, task("brushlabels", {"format": "rle", "rle": list(data), "brushlabels": ["dog"]}))

    studio = drawn("studio.json")
    bits = f"{4 * HW[0] * HW[1]:032b}{7:05b}{15:04b}{15:04b}{15:04b}{15:04b}100{4 * HW[0] * HW[1] - 1:016b}{255:08b}"
    many, chinese = b"cat: kitty, tom\nbackground: sky\n# no\ndog\n", "\u72d7\uff1a\u72ac\n\u732b".encode("utf-16")
    truth = records.TruthRow("a", np.ones(HW, np.uint8)).encode()
    drawn_shapes = {"shapes": [shape, box], "imageHeight": 12, "imageWidth": 20}
    return {
        "coco": Reader(drawn("instances.json"), (json.dumps(coco).encode(),)),
        "labelme": Reader(labelme, (json.dumps(drawn_shapes).encode(),)),
        "label_studio": Reader(studio, (task("polygonlabels", value),)),
        "cvat": Reader(drawn("annotations.xml"), (cvat.encode(),)),
        "brush": Reader(brushed, (int(bits.ljust(88, "0"), 2).to_bytes(11),)),
        "label_png": Reader(drawn("a.png"), (picture(grey, "PNG"), picture(deep, "PNG"))),
        "labelmap": Reader(legend, (b"# label:color_rgb:parts:actions\ncat:9,8,7::\ndog:1,2,3::\n",)),
        "photo": Reader(
            lambda folder, data: _none(decoding.decode_photo(data, folder / "a", 1 << 20)),
            (picture(colours, "PNG"), picture(colours, "JPEG"), picture(deep, "TIFF"), picture(colours, "WEBP")),
        ),
        "truth_row": Reader(lambda _, data: _none(records.TruthRow.decode(data)), (truth,)),
        "label_row": Reader(lambda _, data: _none(records.LabelRow.decode(data)), (truth,)),
        "feature_row": Reader(lambda _, data: _none(records.FeatureRow.decode(data)), (truth,)),
        "evidence_row": Reader(lambda _, data: _none(records.EvidenceRow.decode(data)), (truth,)),
        "shard": Reader(shard, (written_shard(),)),
        "words": Reader(text, (many, chinese)),
        "embeddings": Reader(embeddings, (array(np.eye(2, 5, dtype=np.float32)),)),
    }  # fmt: skip


def _none(_: object) -> None:
    """Of a reader the answer does not matter."""


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
