"""Photos in, free labels out: the frozen encoders see every photo once, the words label as often as wanted.

    python -m labelgen.run --config=configs/my_photos.py --out=DATA --limit=20    # try it on twenty photos of a split
    python -m labelgen.run --config=configs/my_photos.py --out=DATA               # all of them
    python -m labelgen.run --config=... --out=DATA --config.ontology=other.txt --config.labels.name=other

Stages: encode writes DATA/features, evidence and truth (dear, knows no words), label writes DATA/labels/NAME (cheap, no
encoder sees a photo again). The default is both. Killed or stopped, the same command goes on at the photo it was at,
and DATA ends the same to the byte; so it does with several workers, --worker=0/4 ... --worker=3/4, in any order:
whoever finds all photos encoded labels what nobody has labelled. A DATA belongs to the config it was begun with, and
labels/NAME to its words: for others take another --out or labels.name. Photos that cannot be used are skipped, counted
and listed with the reason in DATA/failures.jsonl.
"""

import argparse
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from ml_collections import ConfigDict

from labelgen import encoding, labelling
from labelgen.config import command, load_config, parser
from labelgen.errors import UserError
from labelgen.frame import GOES_ON, same_config, whole
from labelgen.ontology import Ontology, read_words
from labelgen.plan import owned
from labelgen.progress import StageTimes, duration, say

PREEMPTED = 75


def main(args: argparse.Namespace) -> int:
    """Runs the stages; 0 when this worker's share is done."""
    signal.signal(signal.SIGTERM, _preempted)
    start, times = time.monotonic(), StageTimes()
    config = load_config(args.config, args.overrides)
    data = Path(args.out)
    words = _words(config, args)
    said = []
    if args.stage != "label":
        data_plan = encoding.prepare(config, data, args.limit, words)
        mine = owned(data_plan.shards, *args.worker)
        said.append(encoding.encode(config, data_plan, mine, times))
    if args.stage != "encode" and words is not None:
        said.append(_label(config, data, words, args, times))
    spent = f"{duration(time.monotonic() - start)} in all: {times.summary() or 'all was done before'}"
    print(f"{'; '.join(said)}. {spent}. next: {_next(args, config)}")
    return 0


def _label(config: ConfigDict, data: Path, words: Ontology, args: argparse.Namespace, times: StageTimes) -> str:
    """Labels this worker's share. After encoding, the worker that finds DATA complete labels all that nobody has."""
    shards = labelling.prepare(config, data)
    if args.stage == "label":
        return labelling.label(config, data, words, owned(shards, *args.worker), shards, times)
    if not (data / "dataset.json").exists():
        return "labels wait until the other workers have encoded their share"
    return labelling.label(config, data, words, shards, shards, times)


def _words(config: ConfigDict, args: argparse.Namespace) -> Ontology | None:
    """The words, read before anything dear begins. None where encoding alone does not need them."""
    if args.stage == "label" and args.limit:
        raise UserError("--limit belongs to encoding: labels cover every photo of DATA; encode with --limit to try out")
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
    for other in config.eval.ontologies.values():
        read_words(other)
    return read_words(config.ontology)


def _next(args: argparse.Namespace, config: ConfigDict) -> str:
    """What to run next."""
    same = same_config(args) + " "
    if not (Path(args.out) / "dataset.json").exists():
        return f"the other workers, then python -m labelgen.run {same}--out={args.out}"
    if args.stage == "encode":
        return f"python -m labelgen.run {same}--out={args.out} --stage=label"
    if not (Path(args.out) / "labels" / config.labels.name / "labels.json").exists():
        return "the other workers"
    return f"python -m fmbseg_jax.train {same}--data={args.out} --workdir=RUN"


def _preempted(signum: int, frame: FrameType | None) -> None:
    say(f"stopped; {GOES_ON}")
    sys.exit(PREEMPTED)


def _worker(text: str) -> tuple[int, int]:
    """ "2/4" -> (2, 4)."""
    try:
        worker, workers = map(int, text.split("/"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: write i/n, like 0/4") from None
    if not 0 <= worker < workers:
        raise argparse.ArgumentTypeError(f"{text!r}: workers of n are 0 to n - 1")
    return worker, workers


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m labelgen.run`."""
    flags = parser(__doc__ or "", stopped=GOES_ON)
    flags.add_argument("--out", required=True, metavar="DATA", help="folder to write, or to go on with")
    flags.add_argument("--stage", choices=("encode", "label", "both"), default="both")
    flags.add_argument("--worker", type=_worker, default=(0, 1), metavar="i/n", help="share i of n, for job arrays")
    flags.add_argument("--limit", type=whole(1), metavar="N", help="only the first N photos of each split")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
