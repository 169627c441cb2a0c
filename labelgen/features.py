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
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from labelgen.core.command import GOES_ON, command, parser, same_config, share
from labelgen.core.config import encoder_settings, identity, load_config
from labelgen.core.errors import UserError
from labelgen.core.files import check_same, read_json, write_json
from labelgen.core.geometry import HW, onto_grid
from labelgen.core.progress import Progress
from labelgen.core.remote import is_remote
from labelgen.core.threads import in_order
from labelgen.data import manifest
from labelgen.data.dataset import Dataset
from labelgen.data.manifest import claim, sizes
from labelgen.data.records import FEATURE_DTYPES, FeatureRow
from labelgen.data.shards import Shard, is_finished, owned, sweep
from labelgen.data.tfrecord import ShardBusyError, ShardReader, ShardWriter
from labelgen.sources.photos import Photo, PhotoError, Source
from labelgen.sources.registry import open_source
from labelgen.stages.encoding import READ_AHEAD, READERS

if TYPE_CHECKING:
    from labelgen.models.compute import Lanes
    from labelgen.models.patch_encoder import PatchEncoder

LINKED = ("evidence", "truth", "labels", "failures.jsonl")
_FIX = "take another --out, or repeat the command that it was begun with"


def main(args: argparse.Namespace) -> int:
    """Links, encodes what is left, and finishes DATA2; 0, also when other workers have a part of it in work."""
    config = load_config(args.config, args.overrides)
    if is_remote(args.data) or is_remote(args.out):
        raise UserError("--data and --out of labelgen.features are folders: links need one; copy DATA to a disk")
    data, out = Dataset.open(args.data), Path(args.out)
    if out.resolve() == data.path.resolve():
        raise UserError(f"--out={args.out} is --data itself; name another folder")
    begin(config, data, out)
    link(data.path, out)
    shards = shards_of(data)
    left = [shard for shard in owned(shards, *args.worker) if not is_finished(out / "features" / shard.name)]
    if left:
        encode(config, data, out, left)
    again = f"python -m labelgen.features {same_config(args)} --data={args.data} --out={args.out}"
    if waiting := sum(not is_finished(out / "features" / shard.name) for shard in shards):
        print(f"{out}: {waiting} of {len(shards)} shards are left. next: the other workers, then {again}")
        return 0
    width = finish(data, out, shards)
    print(
        f"{out}: features of {config.encoder.name}, {width} wide, of {sum(map(data.count, data.splits))} photos on the "
        f"grid of {data.path}, nothing skipped. next: python -m fmbseg_jax.train {same_config(args)} --data={out} "
        "--workdir=RUN"
    )
    return 0


def begin(config: ConfigDict, data: Dataset, out: Path) -> None:
    """Claims DATA2 for this config. UserError when it is another's, or when photos and teachers are not DATA's."""
    ours, theirs = identity(config), dict(data.info["config"])
    for fields in (ours, theirs):
        fields["encoder"] = ours["encoder"]
    check_same(theirs, ours, str(data.path), "take the config that it was encoded with, but for encoder")
    marker = read_json(data.path / "config.json", "copy the whole DATA")
    out.mkdir(parents=True, exist_ok=True)
    claim(out / "config.json", {**marker, "config": ours}, str(out), _FIX, _begun(out))


def _begun(out: Path) -> bool:
    return (out / "features").exists()


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


def shards_of(data: Dataset) -> list[Shard]:
    """The shards of DATA; start and stop count its rows."""
    found = []
    for split in data.splits:
        rows = data.info["splits"][split]["rows"]
        ends = np.cumsum([0, *rows]).tolist()
        found += [Shard(split, i, len(rows), ends[i], ends[i + 1]) for i in range(len(rows))]
    return found


def encode(config: ConfigDict, data: Dataset, out: Path, left: Sequence[Shard]) -> None:
    """Writes the features of these shards, but for those that another process has in work."""
    from labelgen.models.compute import Lanes
    from labelgen.models.trunks import load_encoder  # torch: only for who has photos left to encode

    encoder = load_encoder(config)
    (out / "dataset.json").unlink(missing_ok=True)  # its presence says complete
    _claim_encoder(config, data, out, encoder)
    (out / "features").mkdir(exist_ok=True)
    sources = {split: open_source(config.photos, split, truth=False) for split in {shard.split for shard in left}}
    progress = Progress(sum(shard.stop - shard.start for shard in left), "photos", "features")
    dtype, lanes = FEATURE_DTYPES[config.encode.feature_dtype], Lanes(encoder.device)
    for shard in left:
        try:
            _encode_shard(Work(sources[shard.split], encoder, lanes, data.grid_hw, dtype), data, out, shard, progress)
        except ShardBusyError as busy:
            progress.note(f"left to its owner: {busy}")
    progress.close()


def _claim_encoder(config: ConfigDict, data: Dataset, out: Path, encoder: "PatchEncoder") -> None:
    theirs = data.info["encoders"]
    dtype = str(encoder.trunk.dtype).removeprefix("torch.")
    ours = {**encoder_settings(config.encoder.to_dict()), **encoder.identity(), "dtype": dtype}
    fields = {
        "grid_hw": list(data.grid_hw),
        "feature_width": encoder.width,
        "text_width": data.text_width,
        "encoders": {**theirs, "encoder": ours, "grid_of": theirs.get("grid_of", theirs["encoder"])},
    }
    fix = "put the weights it was begun with back, set --config.dtype= as it was, or take another --out"
    claim(out / "encoders.json", fields, str(out), fix, _begun(out))


@dataclass(frozen=True)
class Work:
    """What makes a row of DATA2 from one of DATA."""

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
            closing(self.lanes.each(loaded, self.record)) as made,
        ):
            yield from made


def on_grid(features: NDArray[np.float32], grid_hw: HW) -> NDArray[np.float32]:
    """float32 [h, w, D] of features [a, b, D] of the same photo: bilinear at each patch's centre, or the mean over the
    centres of its k parts where they are about k times as fine. Equal grids stay as they are."""
    start = np.zeros(1, np.int64)
    rows, columns = (
        onto_grid(start, 1, 1, tokens, cells)[0] for tokens, cells in zip(features.shape[:2], grid_hw, strict=True)
    )
    laid: NDArray[np.float32] = np.einsum("ia,abd,jb->ijd", rows, features, columns, optimize=True)
    return laid


def _encode_shard(work: Work, data: Dataset, out: Path, shard: Shard, progress: Progress) -> None:
    before = ShardReader(data.path / "features" / shard.name)
    with ShardWriter(out / "features" / shard.name) as writing:
        done = min(writing.count, len(before))
        progress.skip(done)
        with closing(work.records(map(before.__getitem__, range(done, len(before))))) as made:
            for record in made:
                writing.append(record)
                progress.add()
        writing.finish()


def finish(data: Dataset, out: Path, shards: Sequence[Shard]) -> int:
    """The tfds description and, last, dataset.json; D."""
    encoders = read_json(out / "encoders.json", f"delete {out} and begin again")
    config = read_json(out / "config.json", f"delete {out} and begin again")["config"]
    sweep(out / "features")
    found = sizes(out / "features", shards)
    spec = manifest.feature_spec(encoders["grid_hw"], encoders["feature_width"], config["encode"]["feature_dtype"])
    manifest.write(out / "features", "fmbseg_features", spec, found)
    write_json(out / "dataset.json", {**data.info, **encoders, "config": config})
    return int(encoders["feature_width"])


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.features`."""
    flags = parser(__doc__ or "", stopped=GOES_ON)
    flags.add_argument("--data", required=True, metavar="DATA", help="an encoded DATA, a folder")
    flags.add_argument("--out", required=True, metavar="DATA2", help="folder to write, or to go on with")
    flags.add_argument("--worker", type=share, default=(0, 1), metavar="i/n", help="share i of n, for job arrays")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
