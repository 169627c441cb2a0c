"""Every claim of the paper tried on a config that has truth, with its answer, also where the answer is no.

    python -m experiments.claims --config=configs/pocket.py --data=DATA --out=FOLDER --seeds=3
    python -m experiments.claims --config=configs/voc.py --data=DATA --out=FOLDER --only=labels,losses

DATA is complete and labelled with the config's words; it is read, never written. Writes FOLDER/claims.json, plots and a
page, FOLDER/claims.md; --page=FILE has them elsewhere. What is finished in FOLDER is not done again, what was cut off
goes on. Where the training split has no truth, a claim that needs it takes the photos of eval.splits and says so. One
that cannot be tried at all says why, and the others are tried all the same; exit code 2 then. Claims: labels, stages,
alignment, encoders, little_data, training, zero_shot, own_photos, losses, material.
"""

import argparse
import runpy
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import setting
from experiments import catalogue
from experiments.bench import Bench, open_bench
from experiments.page import page
from experiments.plots import write_plots
from experiments.verdict import LABELS, NOT_TRIED, SHIPPED, Claim
from labelgen.core.command import GOES_ON, command, parser, whole
from labelgen.core.errors import UserError
from labelgen.core.files import read_json, write_atomic, write_json
from labelgen.core.progress import say


def main(args: argparse.Namespace) -> int:
    """Tries the claims asked for, and writes what is known of all."""
    names, failed = chosen(args.only), False
    (Path(args.out) / "claims").mkdir(parents=True, exist_ok=True)
    bench = open_bench(args.config, args.overrides, args.data, Path(args.out), args.seeds)
    skipped = [name for name in names if not args.again and done(bench, name)]
    for name in names:
        if name in skipped:
            continue
        say(f"claim {name} ...")
        start = time.perf_counter()
        claim = tried(bench, name).to_json(chosen_by(bench))
        seconds = round(time.perf_counter() - start + spent(bench, name), 1)
        known = {"title": catalogue.CLAIMS[name].title, "seconds": seconds, "fingerprint": bench.fingerprint}
        write_json(bench.out / "claims" / f"{name}.json", {**claim, **known, "commit": setting.where()["commit"]})
        write(bench, args)
        print(f"{name}: {claim['verdict']} ({seconds:.0f} s)")
        failed |= claim["verdict"] == NOT_TRIED
    path = write(bench, args)
    said = f"; done before: {', '.join(skipped)}" if skipped else ""
    print(f"time: {bench.times.summary() or 'all was done before'}")
    print(f"wrote {path} and claims.json{said}; next: read it, or take the others: --only={','.join(catalogue.CLAIMS)}")
    return 2 if failed else 0


def tried(bench: Bench, name: str) -> Claim:
    """The claim's answer; where it cannot be tried with this config and DATA, why, and what would fix it."""
    try:
        return catalogue.CLAIMS[name].run(bench)
    except UserError as error:
        say(f"claim {name} not tried: {error}")
        return Claim("", f"Not tried: {error}", [], [])


def chosen_by(bench: Bench) -> dict[str, str]:
    """What each row says of the shipped settings: CHOSEN_BY of the config's file, which no command else reads."""
    file = bench.config_file if Path(bench.config_file).is_file() else bench.config_file.rpartition(":")[0]
    known = runpy.run_path(file).get("CHOSEN_BY", {})
    return {SHIPPED: known.get("head", SHIPPED), LABELS: known.get("labels", SHIPPED)}


def chosen(only: str) -> list[str]:
    """The claims of --only, all where it is empty. UserError for a name that is none."""
    names = [name.strip() for name in only.split(",") if name.strip()] or list(catalogue.CLAIMS)
    unknown = [name for name in names if name not in catalogue.CLAIMS]
    if unknown:
        raise UserError(f"--only={only}: no claim {unknown[0]!r}; there are {', '.join(catalogue.CLAIMS)}")
    return names


def done(bench: Bench, name: str) -> bool:
    """Whether a claim was tried to its end with this config, DATA and number of seeds."""
    path = bench.out / "claims" / f"{name}.json"
    if not path.exists():
        return False
    known = read_json(path, f"delete {path}")
    return bool(known["fingerprint"] == bench.fingerprint and known["verdict"] != NOT_TRIED)


def spent(bench: Bench, name: str) -> float:
    """Seconds that a claim took before, of which its runs are left: it is tried again from these."""
    path = bench.out / "claims" / f"{name}.json"
    return float(read_json(path, f"delete {path}")["seconds"]) if done(bench, name) else 0.0


def write(bench: Bench, args: argparse.Namespace) -> Path:
    """claims.json, plots and the page of all claims that are finished; the page's path."""
    place = Path(args.page) if args.page else bench.out / "claims.md"
    plots = place.parent / ("plots" if not args.page else place.stem)
    claims: dict[str, Any] = {"about": about(bench), "claims": {}}
    for name in catalogue.CLAIMS:
        path = bench.out / "claims" / f"{name}.json"
        if path.exists():
            known = read_json(path, f"delete {path}")
            kept = {key: value for key, value in known.items() if key != "fingerprint"}
            claims["claims"][name] = {"commit": "unknown"} | kept
    write_json(place.with_suffix(".json"), claims)
    write_plots(claims, bench.out / "pictures", plots)
    write_atomic(place, page(claims, plots.name).encode())
    return place


def about(bench: Bench) -> dict[str, Any]:
    """Config, classes and photos."""
    data = bench.data
    return {
        **setting.where(),
        "config": Path(bench.config_file).name,
        "classes": len(bench.words.ontology.names),
        "photos": {split: data.count(split) for split in data.splits},
        "seeds": bench.seeds,
        "split": bench.split,
    }


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m experiments.claims`."""
    flags = parser(__doc__ or "", stopped=GOES_ON)
    flags.add_argument("--data", required=True, metavar="DATA", help="folder that labelgen.run wrote, with truth")
    flags.add_argument("--out", required=True, metavar="FOLDER", help="for everything made on the way, and the answers")
    flags.add_argument("--only", default="", metavar="NAME,...", help="some of the claims")
    flags.add_argument(
        "--again", action="store_true", help="anew, from the runs that are there: after a change of code"
    )
    flags.add_argument("--seeds", type=whole(1), default=3, metavar="N", help="of training, drawing and dealing")
    flags.add_argument("--page", default="", metavar="FILE", help="page elsewhere, such as docs/claims.md")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
