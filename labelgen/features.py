"""The photos of a DATA seen by another encoder: a second DATA with its features and the same evidence and labels.

    python -m labelgen.features --config=configs/my_photos.py --data=DATA --out=DATA2 --config.encoder.name=clip

Only config.encoder sees the photos, so a comparison of encoders costs no SAM and no CLIP again. Its features are laid
on the patch grid that DATA has: each patch of that grid reads them bilinearly at its centre, or, where they are finer,
as the mean of so many points as they are finer. So evidence, truth and labels fit as they are; they are linked, not
copied, and all commands take DATA2 as they take DATA. What evidence got from the first encoder (ProxyCLIP's proxy)
stays; dataset.json names that encoder in encoders.grid_of. Labels that DATA gets later are linked when the same command
runs again. Killed or stopped, it goes on at the photo it was at; so it does with several workers, --worker=0/4 ...
--worker=3/4, in any order: whoever finds all photos encoded finishes DATA2, the same to the byte.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import contextlib
import os
import sys
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.command import GOES_ON, command, command_line, config_flags, parser, share
from labelgen.core.config import encoder_settings, identity, load_config
from labelgen.core.errors import PhotoError, UserError
from labelgen.core.files import check_same, read_json, write_json
from labelgen.core.geometry import HW, onto_grid
from labelgen.core.progress import Progress, StageTimes
from labelgen.core.remote import is_remote
from labelgen.core.threads import in_order
from labelgen.data import manifest
from labelgen.data.dataset import Dataset, later_shards
from labelgen.data.manifest import claim, sizes
from labelgen.data.records import FEATURE_DTYPES, FeatureRow
from labelgen.data.shards import Shard, is_finished, owned, sweep
from labelgen.data.tfrecord import ShardReader, ShardWriter
from labelgen.data.thumbnail import is_same
from labelgen.sources.photos import Photo, Source
from labelgen.sources.registry import open_source
from labelgen.stages.encoding import READ_AHEAD, READERS, claim_encoders, with_dtype
from labelgen.stages.engine import LocalEngine

if TYPE_CHECKING:
    from labelgen.models.compute import Lanes
    from labelgen.models.patch_encoder import PatchEncoder

LINKED = ("photos", "evidence", "truth", "labels", "failures.jsonl")
_FIX = "take another --out, or repeat the command that it was begun with"


def main(args: argparse.Namespace) -> int:
    """Links, encodes what is left, and finishes DATA2; 0, also when other workers have a part of it in work."""
    config, times = load_config(args.config, args.overrides), StageTimes()
    if is_remote(args.data) or is_remote(args.out):
        raise UserError("--data and --out of labelgen.features are folders: links need one; copy DATA to a disk")
    first, out = Dataset.open(args.data), Path(args.out)
    if out.resolve() == first.path.resolve():
        raise UserError(f"--out={args.out} is --data itself; name another folder")
    features = FeatureStage(config, out, first).begin(times)
    link(first.path, out)
    LocalEngine().run(features, owned(features.shards, *args.worker))
    print(f"{features.complete()}. next: {_next(args, out)}")
    return 0


def _next(args: argparse.Namespace, out: Path) -> str:
    """What to run next."""
    if not (out / "dataset.json").exists():
        again = [*config_flags(args), f"--data={args.data}", f"--out={args.out}"]
        return "the other workers, then " + command_line("labelgen.features", *again)
    return command_line("fmbseg_jax.train", *config_flags(args), f"--data={out}", "--workdir=RUN")


def link(data: Path, out: Path) -> None:
    """Gives DATA2 what is DATA's, unless it has it: hard links, symbolic ones to another disk. Labels in work wait."""
    for name in LINKED:
        for path in sorted([data / name] if (data / name).is_file() else (data / name).rglob("*")):
            inside = path.relative_to(data)
            in_work = any(part.endswith((".partial", ".tmp")) for part in inside.parts)
            unfinished = name == "labels" and not (data / Path(*inside.parts[:2]) / "labels.json").exists()
            if path.is_file() and not in_work and not unfinished:
                (out / inside).parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileExistsError):
                    _link_file(path, out / inside)


def _link_file(path: Path, new: Path) -> None:
    try:
        os.link(path, new)
    except FileExistsError:
        raise
    except OSError:  # another disk, or one without hard links
        os.symlink(path.resolve(), new)


@dataclass(frozen=True)
class FeatureStage:
    """Photos of a DATA to another encoder's features on its grid, in DATA2. See labelgen.stages.engine."""

    name: ClassVar[str] = "features"
    config: ConfigDict
    data: Path
    """DATA2."""
    first: Dataset
    """DATA."""

    def begin(self, times: StageTimes) -> "Features":
        """Claims DATA2 for this config. UserError when it is another's, or when photos and teachers are not DATA's."""
        first, out = self.first, self.data
        settings, before = identity(self.config), dict(first.info["config"])
        before["encoder"] = settings["encoder"]
        check_same(before, settings, str(first.path), "take the config that it was encoded with, but for encoder")
        marker = read_json(first.path / "config.json", "copy the whole DATA")
        out.mkdir(parents=True, exist_ok=True)
        claim(out / "config.json", {**marker, "config": settings}, str(out), _FIX, _is_begun(out))
        return Features(self, shards_of(first))


def _is_begun(out: Path) -> bool:
    return (out / "features").exists()


def shards_of(data: Dataset) -> list[Shard]:
    """The shards of DATA; start and stop count its rows."""
    shards = []
    for split in data.splits:
        fields = data.info["splits"][split]
        ends = np.cumsum([0, *fields["rows"]]).tolist()
        spans, later = pairwise(ends), later_shards(fields)
        for arrival, count in enumerate([len(fields["rows"]) - sum(later), *later]):
            shards += [Shard(split, i, count, *next(spans), arrival) for i in range(count)]
    return shards


@dataclass
class Features:
    """The stage begun. See labelgen.stages.engine.Work."""

    stage: FeatureStage
    shards: Sequence[Shard]

    def unfinished(self, shards: Sequence[Shard]) -> list[Shard]:
        """See Work; so the other methods."""
        return [shard for shard in shards if not is_finished(self.stage.data / "features" / shard.name)]

    def open(self, shards: Sequence[Shard]) -> None:
        from labelgen.models.compute import Lanes
        from labelgen.models.trunks import load_encoder  # torch: only for who has photos left to encode

        config, first, out = self.stage.config, self.stage.first, self.stage.data
        encoder = load_encoder(self._in_its_dtype())
        (out / "dataset.json").unlink(missing_ok=True)  # its presence says complete
        claim_encoders(out, first.grid_hw, encoder.width, first.text_width, self._encoders(encoder), _is_begun(out))
        (out / "features").mkdir(exist_ok=True)
        dtype, lanes = FEATURE_DTYPES[config.encode.feature_dtype], Lanes(encoder.device)
        self._views = {
            split: OtherView(open_source(config.photos, split, truth=False), encoder, lanes, first.grid_hw, dtype)
            for split in {shard.split for shard in shards}
        }

    def _in_its_dtype(self) -> ConfigDict:
        """The config with the dtype in which DATA2 was begun in place of auto."""
        config, path = self.stage.config, self.stage.data / "encoders.json"
        if config.dtype != "auto" or not _is_begun(self.stage.data) or not path.exists():
            return config
        return with_dtype(config, read_json(path, _FIX)["encoders"]["encoder"]["dtype"], self.stage.data)

    def _encoders(self, encoder: "PatchEncoder") -> dict[str, Any]:
        """DATA's encoders, but for this one."""
        before = self.stage.first.info["encoders"]
        dtype = str(encoder.trunk.dtype).removeprefix("torch.")
        ours = {**encoder_settings(self.stage.config.encoder.to_dict()), **encoder.identity(), "dtype": dtype}
        return {**before, "encoder": ours, "grid_of": before.get("grid_of", before["encoder"])}

    def do(self, shard: Shard, progress: Progress, spare: bool = False) -> None:
        rows = ShardReader(self.stage.first.path / "features" / shard.name)
        with ShardWriter(self.stage.data / "features" / shard.name, spare) as writing:
            done = min(writing.count, len(rows))
            progress.skip(done)
            with closing(self._views[shard.split].records(map(rows.__getitem__, range(done, len(rows))))) as records:
                for record in records:
                    writing.append(record)
                    progress.add()
            writing.finish()

    def complete(self) -> str:
        """Writes the tfds description and, last, dataset.json."""
        config, first, out = self.stage.config, self.stage.first, self.stage.data
        if left := self.unfinished(self.shards):
            return f"{out}: {len(left)} of {len(self.shards)} shards are left"
        encoders = read_json(out / "encoders.json", f"delete {out} and begin again")
        marker = read_json(out / "config.json", f"delete {out} and begin again")["config"]
        sweep(out / "features")
        width, dtype = encoders["feature_width"], marker["encode"]["feature_dtype"]
        spec = manifest.feature_spec(encoders["grid_hw"], width, dtype)
        manifest.write(out / "features", "fmbseg_features", spec, sizes(out / "features", self.shards))
        write_json(out / "dataset.json", {**first.info, **encoders, "config": marker})
        return (
            f"{out}: features of {config.encoder.name}, {width} wide, of {sum(map(first.count, first.splits))} photos "
            f"on the grid of {first.path}, nothing skipped"
        )


@dataclass(frozen=True)
class OtherView:
    """What makes a row of DATA2 from one of DATA, in one split."""

    source: Source
    encoder: "PatchEncoder"
    lanes: "Lanes"
    grid_hw: HW
    dtype: np.dtype[Any]

    def load(self, record: bytes) -> tuple[FeatureRow, Photo]:
        """The row of DATA and its photo. UserError where that is not there any more, or is another one."""
        row = FeatureRow.decode(record)
        file = self.source.file(row.photo_id)
        try:
            photo = self.source.load(row.photo_id)
        except PhotoError as error:
            raise UserError(f"{file}: {error.reason}, but DATA has it; {error.fix}") from error
        if photo.image.shape[:2] != row.size_hw:
            raise UserError(
                f"{file}: {photo.image.shape[1]} x {photo.image.shape[0]} px, but it had {row.size_hw[1]} x "
                f"{row.size_hw[0]} when DATA was encoded; put the photos of then back, or encode a DATA anew"
            )
        if not is_same(photo.image, row.size_hw, row.thumbnail):
            raise UserError(
                f"{file}: is another photo than the one of that name that DATA was encoded with; put that one back, or "
                "encode a DATA anew"
            )
        return row, photo

    def record(self, loaded: tuple[FeatureRow, Photo]) -> bytes:
        """The same photo's row on the same grid with the encoder's features, encoded."""
        before, photo = loaded
        h, w = before.grid_hw
        padded = np.zeros((*self.grid_hw, self.encoder.width), self.dtype)
        padded[:h, :w] = on_grid(self.encoder.features(photo.image), (h, w))
        return replace(before, features=padded).encode()

    def records(self, rows: Iterator[bytes]) -> Generator[bytes, None, None]:
        """The rows of DATA2 of those of DATA, in order: photos are read ahead, several are in the encoder at a time."""
        with (
            closing(in_order(rows, self.load, READERS, READ_AHEAD)) as loaded,
            closing(self.lanes.each(loaded, self.record)) as encoded,
        ):
            yield from encoded


def on_grid(features: NDArray[np.float32], grid_hw: HW) -> NDArray[np.float32]:
    """float32 [h, w, D] of features [a, b, D] of the same photo: bilinear at each patch's centre, or the mean over the
    centres of its k parts where they are about k times as fine. Equal grids stay as they are."""
    start = np.zeros(1, np.int64)
    rows, columns = (
        onto_grid(start, 1, 1, tokens, cells)[0] for tokens, cells in zip(features.shape[:2], grid_hw, strict=True)
    )
    laid: NDArray[np.float32] = np.einsum("ia,abd,jb->ijd", rows, features, columns, optimize=True)
    return laid


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.features`."""
    flags = parser(__doc__ or "", stopped=GOES_ON)
    flags.add_argument("--data", required=True, metavar="DATA", help="an encoded DATA, a folder")
    flags.add_argument("--out", required=True, metavar="DATA2", help="folder to write, or to go on with")
    flags.add_argument("--worker", type=share, default=(0, 1), metavar="i/n", help="share i of n, for job arrays")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
