"""`labelgen.run` with an encoder that needs no weights: features and evidence are drawn from the photo's own pixels.

`python -m tests.worlds.stub_run ARGUMENTS` is `python -m labelgen.run ARGUMENTS`; `--kill N SEED OUT ARGUMENTS` starts
it again and again and kills it -9 at N random moments: by the clock, before a rename or fsync, within a write.
"""

import itertools
import os
import random
import signal
import sys
import time
import zlib
from collections.abc import Callable, Generator, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from PIL import Image

from labelgen import run
from labelgen.core.command import command
from labelgen.core.errors import UserError
from labelgen.core.progress import StageTimes
from labelgen.core.threads import in_order
from labelgen.data.records import EvidenceRow, FeatureRow, TruthRow
from labelgen.data.thumbnail import thumbnail
from labelgen.sources.photos import Photo
from labelgen.stages import cluster
from tests.worlds.rows import mask_set

GRID, WIDTH, TEXT_WIDTH = 6, 8, 5


class StubEncoders:
    """What labelgen.models.teachers.Encoders is to the stages. STUB_WEIGHTS in the environment stands for the weight
    files, STUB_DTYPE for what dtype=auto is on this machine.
    """

    grid_hw = (GRID, GRID)
    feature_width = WIDTH
    text_width = TEXT_WIDTH

    def __init__(self, config: Any) -> None:
        if config.weights_dir == "broken":
            raise UserError("broken: no weights there")
        self.times = StageTimes()
        self._config = config

    def identity(self) -> dict[str, Any]:
        auto = os.environ.get("STUB_DTYPE", "float32")
        dtype = auto if self._config.dtype == "auto" else self._config.dtype
        return {"clip": {"sha256": os.environ.get("STUB_WEIGHTS", "a")}, "encoder": {"sha256": "b"}, "dtype": dtype}

    def encode_photos(self, photos: Iterator[Photo]) -> Generator[tuple[Any, ...], None, None]:
        yield from in_order(photos, self.encode_photo, threads=2, depth=3)

    def encode_photo(self, photo: Photo) -> tuple[FeatureRow, EvidenceRow, TruthRow | None]:
        height, width = photo.image.shape[:2]
        rng = np.random.default_rng(zlib.crc32(photo.image.tobytes()))
        time.sleep(seconds_a_photo())
        features = rng.normal(size=(GRID, GRID, WIDTH)).astype(ml_dtypes.bfloat16)
        crops = rng.normal(size=(4, TEXT_WIDTH))
        crops /= np.linalg.norm(crops, axis=1, keepdims=True)
        dense = {
            variant: rng.normal(size=(GRID, GRID, TEXT_WIDTH)).astype(np.float16)
            for variant in self._config.clip.variants
        }
        masks = mask_set(rng.random((3, height, width)) < 0.5)
        boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (4, 1))
        size_hw, grid_hw = (height, width), (GRID, GRID)
        return (
            FeatureRow(
                photo.photo_id,
                size_hw,
                (0.0, 0.0, float(width), float(height)),
                grid_hw,
                features,
                thumbnail(photo.image),
            ),
            EvidenceRow(photo.photo_id, size_hw, grid_hw, crops.astype(np.float16), boxes, dense, masks),
            None if photo.label_map is None else TruthRow(photo.photo_id, photo.label_map),
        )


def seconds_a_photo() -> float:
    """STUB_SECONDS in the environment, or what the file STUB_PACE says by now."""
    pace = os.environ.get("STUB_PACE")
    return float(Path(pace).read_text() if pace else os.environ.get("STUB_SECONDS", "0"))


def write_world(folder: Path, photos: int = 12, held: int = 3) -> None:
    """A folder of small photos: `train` with masks and two bad photos, `wild` without; words and a config."""
    rng = np.random.default_rng(0)
    for split, count in (("train", photos), ("wild", held)):
        for kind in ("photos", "masks"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            size = (12 + i, 20)
            Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(folder / f"photos/{split}/{i:03}.png")
            Image.fromarray(rng.integers(0, 3, size, np.uint8)).save(folder / f"masks/{split}/{i:03}.png")
    for i in (4, 9):
        (folder / f"photos/train/{i:03}.png").write_bytes(b"")
    (folder / "words.txt").write_text("sky\ngrass: grass, lawn\nball\n")
    np.save(folder / "words.npy", rng.normal(size=(4, TEXT_WIDTH)).astype(np.float32))
    (folder / "config.py").write_text(
        f"""
from configs.default import get_config as default
from ml_collections import ConfigDict

def get_config():
    config = default()
    config.photos.root = {str(folder)!r}
    config.photos.splits = ConfigDict({{
        "train": {{"photos": "photos/train", "masks": "masks/train"}},
        "wild": {{"photos": "photos/wild", "masks": ""}},
    }})
    config.ontology = {str(folder / "words.txt")!r}
    config.labels.text_embeddings = {str(folder / "words.npy")!r}
    config.encode.photos_per_shard = 6
    return config
"""
    )


def main(argv: list[str]) -> int:
    """labelgen.run with the stub."""
    cluster.LEAST_S = float(os.environ.get("STUB_LEAST_S", cluster.LEAST_S))
    return command(partial(run.main, load=StubEncoders), run.arguments(), argv)


def kill_and_restart(kills: int, seed: int, out: str, argv: list[str]) -> int:
    """Writes OUT-0, OUT-1 ... to their ends, killed `kills` times in all; prints how many there are."""
    rng, rounds = random.Random(seed), 0
    while kills:
        code = start([*argv, f"--out={out}-{rounds}"], rng)
        kills -= code == -signal.SIGKILL
        if code == 0:
            rounds += 1
        elif code != -signal.SIGKILL:
            return code
    print(rounds + 1)
    return start([*argv, f"--out={out}-{rounds}"], None)


def start(argv: list[str], rng: random.Random | None) -> int:
    """The exit code of one run, killed at a moment of rng's choice where there is one."""
    way, number, share = (
        (rng.choice(["clock", "write", "name"]), rng.randrange(20), rng.random()) if rng else ("", 0, 0.0)
    )
    child = os.fork()
    if not child:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        kill_at(way, number, share)
        os._exit(main(argv))
    if way == "clock":
        time.sleep(share)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill_at(way: str, number: int, share: float) -> None:
    """kill -9 in the n-th write, with a share of its bytes on the disk, or before the n-th rename or fsync."""
    calls = itertools.count()

    def deadly(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any) -> Any:
            if next(calls) == number:
                if way == "write":
                    call(arguments[0], arguments[1][: int(share * len(arguments[1]))])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments)

        return wrapped

    if way == "write":
        os.write = deadly(os.write)
    if way == "name":
        os.replace, os.fsync = deadly(os.replace), deadly(os.fsync)


if __name__ == "__main__":
    if sys.argv[1] == "--kill":
        sys.exit(kill_and_restart(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5:]))
    sys.exit(main(sys.argv[1:]))
