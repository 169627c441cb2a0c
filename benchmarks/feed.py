"""How fast the trainer's reader is beside a plain sequential read of the same files, and beside tf.data.

    python -m benchmarks.feed [--pocket] [--photos=256] [--repeats=7] [--out=FILE.json]

Makes a DATA of random features and reads it once, so that the page cache holds it: no disk is measured. Then, in turns:

- the plain read: the features' files from end to end into one buffer of 4 MiB, which stays in the processor's cache;
- the same into as much memory as a batch takes, which every reader of batches must fill;
- the feed over a DATA just opened: every record read, checked and batched, targets decoded;
- the feed in later passes: checksums and targets are known, batches are made in memory that others were in;
- tf.data (TFRecordDataset, parse, batch) where TensorFlow is installed.

Bytes are those of the features' files for all. --profile says which functions the feed's time is spent in, on one
thread. Processor time tells more than the clock where others use the machine too.
"""

import argparse
import cProfile
import dataclasses
import functools
import pstats
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.setting import POCKET, REAL, Shape, median, publish, scratch_data, spread, table
from fmbseg_jax.runs.settings import FeedConfig, train_config
from fmbseg_jax.training.feed import BatchMemory, Examples, Feed, free_labels
from labelgen.core.command import command, parser
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.data.dataset import Dataset

BLOCK_BYTES = 4 << 20
PLAIN, FILLING = "plain sequential read", "the same, into memory for a batch"
FIRST, LATER = "feed, the first pass", "feed, later passes"
PASSES = 4
Spent = tuple[float, float]
"""(seconds, processor seconds of all threads)"""


def main(args: argparse.Namespace) -> int:
    """Measure in turns; print the table."""
    shape = dataclasses.replace(POCKET if args.pocket else REAL, photos=args.photos, batch_size=args.batch)
    if args.photos % args.batch:
        raise UserError(f"--photos={args.photos} is no multiple of --batch={args.batch}; set it to one")
    with scratch_data(shape, args.scratch) as path:
        files = sorted((path / "features").glob("*.tfrecord"))
        size = sum(file.stat().st_size for file in files)
        ways = readers(path, files, shape)
        times: dict[str, list[Spent]] = {name: [] for name in ways}
        for turn in range(args.repeats + 1):
            for name, read in ways.items():
                spent = read()
                if turn:  # the first warms up
                    times[name].append(spent)
        result: dict[str, Any] = {"shape": dataclasses.asdict(shape), "bytes": size, "seconds": times}
        publish(args, result, text(result, shape))
        if args.profile:
            profile(path, shape)
    return 0


def readers(path: Path, files: list[Path], shape: Shape) -> dict[str, Callable[[], Spent]]:
    """Each says what reading all of DATA once takes."""
    settings = train_config(load_config("configs/default.py", shape.overrides)).feed
    buffers = np.empty(BLOCK_BYTES, np.uint8), np.empty(batch_bytes(shape), np.uint8)
    ways = {
        PLAIN: lambda: timed(lambda: plain_read(files, buffers[0])),
        FILLING: lambda: timed(lambda: plain_read(files, buffers[1])),
        FIRST: lambda: first_pass(path, settings, shape),
        LATER: lambda: later_pass(path, settings, shape),
    }
    if find_spec("tensorflow"):
        ways["tf.data"] = functools.partial(timed, tf_data(files, shape))
    else:
        print("tf.data: TensorFlow is not installed, left out", file=sys.stderr)
    return ways


def examples(path: Path) -> Examples:
    """DATA opened anew."""
    data = Dataset.open(path)
    return Examples(data, "train", free_labels(data, "default", "train"))


def batch_bytes(shape: Shape) -> int:
    """Of a batch's features."""
    return 2 * shape.batch_size * shape.grid_hw[0] * shape.grid_hw[1] * shape.feature_width


def plain_read(files: list[Path], buffer: NDArray[np.uint8]) -> None:
    """Every byte of the files, in order, 4 MiB at a time, round and round the buffer."""
    at = 0
    for file in files:
        with file.open("rb", buffering=0) as opened:
            while count := opened.readinto(buffer.data[at : at + BLOCK_BYTES]):
                at = 0 if at + count >= len(buffer) else at + count


def first_pass(path: Path, settings: FeedConfig, shape: Shape) -> Spent:
    """Of a DATA just opened, the start of the reader's threads included."""
    return timed(lambda: take(opened(path, settings, shape, 1), shape.photos // shape.batch_size))


def later_pass(path: Path, settings: FeedConfig, shape: Shape) -> Spent:
    """One of several after the first."""
    feed, steps = opened(path, settings, shape, PASSES), shape.photos // shape.batch_size
    take(feed, steps)
    clock, work = timed(lambda: take(feed, (PASSES - 1) * steps))
    return clock / (PASSES - 1), work / (PASSES - 1)


def opened(path: Path, settings: FeedConfig, shape: Shape, passes: int) -> Feed:
    """As the trainer has it."""
    steps = passes * shape.photos // shape.batch_size
    return Feed(examples(path), np.arange(shape.photos), settings, steps, np.arange(shape.batch_size))


def take(feed: Feed, steps: int) -> None:
    """That many batches."""
    for _ in range(steps):
        next(feed)


def tf_data(files: list[Path], shape: Shape) -> Callable[[], None]:
    """The same features by TensorFlow's own reader, parser and batches."""
    import tensorflow as tf  # type: ignore[import-not-found,import-untyped,unused-ignore]

    fields = {"features": tf.io.FixedLenFeature([], tf.string), "grid_hw": tf.io.FixedLenFeature([2], tf.int64)}
    width = [*shape.grid_hw, shape.feature_width]

    def parse(record: Any) -> Any:
        values = tf.io.parse_single_example(record, fields)
        # The bits of a bfloat16: the same bytes, whatever the version makes of the type.
        return tf.reshape(tf.io.decode_raw(values["features"], tf.uint16), width), values["grid_hw"]

    def read() -> None:
        data = tf.data.TFRecordDataset([str(file) for file in files])
        data = data.map(parse, num_parallel_calls=tf.data.AUTOTUNE)
        for _ in data.batch(shape.batch_size).prefetch(tf.data.AUTOTUNE):
            pass

    return read


def timed(read: Callable[[], None]) -> Spent:
    """What it took."""
    start, work = time.perf_counter(), time.process_time()
    read()
    return time.perf_counter() - start, time.process_time() - work


def profile(path: Path, shape: Shape) -> None:
    """Prints where the time goes when one thread makes the batches: what bounds the reader."""
    photos = examples(path)
    memory = BatchMemory(photos[0], shape.batch_size)
    meter = cProfile.Profile()
    meter.enable()
    for start in range(0, shape.photos, shape.batch_size):
        batch = memory.take()
        for i in range(shape.batch_size):
            photos.read_into(start + i, {name: value[i, ...] for name, value in batch.items()})
    meter.disable()
    pstats.Stats(meter).sort_stats("tottime").print_stats(12)


def text(result: dict[str, Any], shape: Shape) -> str:
    """The README's rows."""
    rows = []
    for name, spent in result["seconds"].items():
        seconds, work = ([float(one[i]) for one in spent] for i in range(2))
        rows.append(
            [
                name,
                spread([shape.photos / s for s in seconds]),
                spread([result["bytes"] / s / 1e9 for s in seconds]),
                *(share(result["seconds"], base, name) for base in (PLAIN, FILLING)),
                spread([1e3 * s / shape.photos for s in work]),
            ]
        )
    heads = [f"D={shape.feature_width}, {shape.grid_hw[0]} x {shape.grid_hw[1]}", "photos/s", "GB/s"]
    return table([*heads, "of the plain read", "of the one into memory", "processor ms a photo"], rows)


def share(seconds: dict[str, list[Spent]], base: str, name: str) -> str:
    """Median over the turns of the speed as a share of the base's."""
    return f"**{median([a[0] / b[0] for a, b in zip(seconds[base], seconds[name], strict=True)]):.2f}**"


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("--pocket", action="store_true", help="the pocket world's shape instead of D=1024, 37 x 37")
    flags.add_argument("--photos", type=int, default=256, help="photos of DATA, a multiple of the batch")
    flags.add_argument("--batch", type=int, default=32, help="photos a batch")
    flags.add_argument("--repeats", type=int, default=7, help="turns")
    flags.add_argument("--profile", action="store_true", help="also print what the feed's time is spent in")
    flags.add_argument("--scratch", default="", metavar="FOLDER", help="where the DATA is made for the time")
    flags.add_argument("--out", metavar="FILE", help="the figures as JSON")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
