"""Photos in, free labels out: the frozen encoders see every photo once, the words label as often as wanted.

    python -m labelgen.run --config=configs/my_photos.py --out=DATA --limit=20    # try it on twenty photos of a split
    python -m labelgen.run --config=configs/my_photos.py --out=DATA               # all of them
    python -m labelgen.run --config=... --out=DATA --config.ontology=other.txt --config.labels.name=other
    python -m labelgen.run --config=... --out=DATA --labels_from=FOLDER --config.labels.name=corrected

Stages: encode writes DATA/features, evidence and truth (expensive, knows no words), label writes DATA/labels/NAME
(cheap, no encoder sees a photo again). The default is both. Killed or stopped, the same command goes on at the photo it
was at, and DATA ends the same to the byte; so it does with several workers, --worker=0/4 ... --worker=3/4, in any
order: whoever finds all photos encoded labels what nobody has labelled (to the byte: on one kind of device; CPUs with
up to 7 threads each, or all with one OMP_NUM_THREADS). --engine=ray shares the shards out over a Ray cluster, the one
at --ray_address (or RAY_ADDRESS), else one that it starts on this machine, with a worker for each device; DATA lies on
a disk that all nodes share. A DATA belongs to the config it was begun with, and labels/NAME to its words: for others
take another --out or labels.name. Photos that came to a folder since are encoded and labelled by the same command, and
nothing that was written before changes; photos that are gone are refused. Photos that cannot be used are skipped,
counted and listed with the reason in DATA/failures.jsonl.

--labels_from: labels that labelgen.export wrote and a person corrected, or a tool's (PNGs, LabelMe's files, a COCO
json, CVAT's xml), take the place of the free ones. Photos without a file, or without an annotation, keep the free ones;
with --only_corrected they have none.
"""

if __name__ == "__main__":
    from labelgen.core import interrupt

    interrupt.silent()

import argparse
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import FrameType

from ml_collections import ConfigDict

from labelgen.core.command import GOES_ON, command, command_line, config_flags, parser, share, whole
from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.ontology import Ontology, read_words
from labelgen.core.progress import StageTimes, duration, say
from labelgen.data.manifest import forget_dtype, is_complete
from labelgen.data.shards import owned
from labelgen.labels.corrected import CorrectedFrom
from labelgen.stages.encoding import EncodeStage, Loader, load_encoders
from labelgen.stages.engine import Engine, LocalEngine
from labelgen.stages.labelling import LabelStage

PREEMPTED = 75


def main(args: argparse.Namespace, load: Loader = load_encoders) -> int:
    """Runs the stages with the models that `load` opens; 0 when this worker's share is done."""
    signal.signal(signal.SIGTERM, _preempted)
    start, times = time.monotonic(), StageTimes()
    config = load_config(args.config, args.overrides)
    words = _words(config, args)
    try:
        with _engine(config, args, times) as engine:
            done = list(_stages(engine, config, words, args, times, load))
    except SystemExit:  # Ray loses the code of an exit that a signal makes within its calls
        return PREEMPTED
    spent = f"{duration(time.monotonic() - start)} in all: {times.summary() or 'all was done before'}"
    print(f"{'; '.join(done)}. {spent}. next: {_next(args, config)}")
    return 0


def _stages(
    engine: Engine,
    config: ConfigDict,
    words: Ontology | None,
    args: argparse.Namespace,
    times: StageTimes,
    load: Loader,
) -> Iterator[str]:
    """Has the stages done; what was done in each, in words."""
    data = Path(args.out)
    if args.stage != "label":
        if args.engine == "ray":
            forget_dtype(data)
        shared = args.engine == "ray" or args.worker != (0, 1)
        encoding = EncodeStage(config, data, args.limit, words, load, shared).begin(times)
        engine.run(encoding, owned(encoding.shards, *args.worker))
        yield encoding.complete()
    if args.stage == "encode" or words is None:
        return
    if args.stage == "both" and not is_complete(data):
        yield "labels wait until the other workers have encoded their share"
        return
    corrected = CorrectedFrom(Path(args.labels_from), args.only_corrected) if args.labels_from else None
    labelling = LabelStage(config, data, words, corrected).begin(times)
    # After encoding, the worker that finds DATA complete labels all that nobody has.
    engine.run(labelling, owned(labelling.shards, *args.worker) if args.stage == "label" else labelling.shards)
    yield labelling.complete()


def _engine(config: ConfigDict, args: argparse.Namespace, times: StageTimes) -> AbstractContextManager[Engine]:
    """Who does the shards."""
    if args.engine == "local":
        return nullcontext(LocalEngine())
    from labelgen.stages.cluster import RayEngine  # only for who has a cluster

    if args.worker != (0, 1):
        raise UserError("--worker is for job arrays; --engine=ray shares the work out by itself: leave one of them out")
    if args.labels_from:
        raise UserError("--labels_from is work for one machine: encode with --engine=ray, then label without it")
    if config.device.startswith("cuda:"):
        raise UserError(f"device = {config.device!r}; with --engine=ray each worker has its own GPU: set it to cuda")
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT):
        if signal.getsignal(number) != signal.SIG_IGN:  # as Ctrl-C is in a shell's background
            signal.signal(number, stop)
    return RayEngine(args.ray_address or os.environ.get("RAY_ADDRESS", ""), times, stop.signalled)


def _words(config: ConfigDict, args: argparse.Namespace) -> Ontology | None:
    """The words, read before anything expensive begins. None where encoding alone does not need them."""
    if args.stage == "label" and args.limit:
        raise UserError("--limit belongs to encoding: labels cover every photo of DATA; encode with --limit to try out")
    if args.labels_from and (args.stage == "encode" or not Path(args.labels_from).exists()):
        lacks = "belongs to labelling" if args.stage == "encode" else "no such folder of corrected labels"
        raise UserError(f"--labels_from={args.labels_from}: {lacks}; fix --labels_from or --stage")
    if args.only_corrected and not args.labels_from:
        raise UserError("--only_corrected: of which? Name the folder of corrected labels: --labels_from=FOLDER")
    if args.stage == "encode" and not config.ontology:
        return None
    if not config.ontology:
        raise UserError("ontology is not set; set it to your file of words: --config.ontology=FILE")
    if args.stage != "encode":
        unknown = [split for split in config.labels.splits if split not in config.photos.splits]
        if unknown:
            raise UserError(
                f"labels.splits names {unknown[0]!r}, but photos.splits has {', '.join(config.photos.splits) or 'none'}"
            )
    for other in filter(None, config.eval.ontologies.values()):
        read_words(other)
    return read_words(config.ontology)


def _next(args: argparse.Namespace, config: ConfigDict) -> str:
    """What to run next."""
    flags, out = config_flags(args), f"--out={args.out}"
    if not is_complete(Path(args.out)):
        again = [*flags, *[f"--labels_from={args.labels_from}"] * bool(args.labels_from)]
        again += ["--only_corrected"] * args.only_corrected
        return "the other workers, then " + command_line("labelgen.run", *again, out)
    if args.stage == "encode":
        return command_line("labelgen.run", *flags, out, "--stage=label")
    if not (Path(args.out) / "labels" / config.labels.name / "labels.json").exists():
        return "the other workers"
    return command_line("fmbseg_jax.train", *flags, f"--data={args.out}", "--workdir=RUN")


class _Stop:
    """A signal's handler that also leaves a mark: within its own calls Ray may lose the exit, or its code."""

    def __init__(self) -> None:
        self._signalled = False

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        self._signalled = True
        _preempted(signum, frame)

    def signalled(self) -> bool:
        """Whether a signal came."""
        return self._signalled


def _preempted(signum: int, frame: FrameType | None) -> None:
    say(f"stopped; {GOES_ON}")
    sys.exit(PREEMPTED)


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.run`."""
    flags = parser(__doc__ or "", stopped=GOES_ON)
    flags.add_argument("--out", required=True, metavar="DATA", help="folder to write, or to go on with")
    flags.add_argument("--stage", choices=("encode", "label", "both"), default="both")
    flags.add_argument("--worker", type=share, default=(0, 1), metavar="i/n", help="share i of n, for job arrays")
    flags.add_argument(
        "--labels_from",
        default="",
        metavar="FOLDER",
        help="corrected labels: PNGs, LabelMe's files, a COCO json, CVAT's xml",
    )
    flags.add_argument("--only_corrected", action="store_true", help="photos without a corrected file stay unlabelled")
    flags.add_argument("--engine", choices=("local", "ray"), default="local", help="who does the shards")
    flags.add_argument("--ray_address", default="", metavar="HOST:PORT", help="of the Ray cluster to join")
    flags.add_argument("--limit", type=whole(1), metavar="N", help="N photos of each split, those of before first")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
