"""Fills the figures of the README and of docs/results.md from files, so that none is typed by hand.

    python -m tools.readme                              # from docs/figures.json and docs/claims.json
    python -m tools.readme --data=DATA RUN-0 RUN-1 ORACLE-0 ORACLE-1        # writes docs/figures.json first

What stands between `<!-- figures:NAME -->` and `<!-- end -->` is written anew. docs/figures.json keeps what
`labelgen.quality` wrote into DATA and `fmbseg_jax.evaluate` into each RUN (the RUNs as for fmbseg_jax.results);
docs/claims.json is that of experiments.claims. --check writes nothing and says which page differs.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.setting import where
from experiments import verdict
from experiments.page import by_number
from experiments.runs import DENSE_MAP, HEAD_ALONE
from experiments.verdict import number
from experiments.zero_shot import LEFT_OUT, READINGS
from fmbseg_jax.reporting.readings import HEAD, ORACLE, REFINED, Reading, best_dense, by_reading, dense_clip
from fmbseg_jax.reporting.run_figures import evaluations, of_model
from labelgen.core.command import command, parser
from labelgen.core.errors import UserError
from labelgen.core.files import read_json, write_atomic, write_json

Figures = Mapping[str, Any]
ROOT = Path(__file__).parents[1]
PAGES = ROOT / "README.md", ROOT / "docs/results.md"
FIGURES, CLAIMS = ROOT / "docs/figures.json", ROOT / "docs/claims.json"
BLOCK = re.compile(r"(<!-- figures:(\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def main(args: argparse.Namespace) -> int:
    """Collects where RUNs are given, then fills or checks."""
    if bool(args.runs) != bool(args.data):
        raise UserError("--data and RUNs belong together: name both to collect figures, neither to fill the pages")
    if args.runs:
        write_json(FIGURES, collect(Path(args.data), args.runs))
    known, names = figures(), " and ".join(page.name for page in PAGES)
    new = {page: filled(page.read_text(encoding="utf-8"), known, page.name) for page in PAGES}
    if args.check:
        differing = [page.name for page, text in new.items() if text != page.read_text(encoding="utf-8")]
        said = f"{names} say what the files say"
        print(f"{' and '.join(differing)} differs: run make readme-figures" if differing else said)
        return int(bool(differing))
    for page, text in new.items():
        write_atomic(page, text.encode())
    print(f"wrote {names} from {FIGURES.name} and {CLAIMS.name}; next: look at git diff")
    return 0


def figures() -> dict[str, Any]:
    """Both files."""
    fix = "run make figures, or python -m experiments.claims --page=docs/claims.md"
    return {"runs": read_json(FIGURES, fix), "claims": read_json(CLAIMS, fix)}


def collect(data: Path, runs: list[str]) -> dict[str, Any]:
    """Reading -> figure -> a value a RUN, of every split; oracles under `oracle`; and the labels' quality."""
    splits: dict[str, Any] = {}
    labels = ""
    for split, results in evaluations(runs).items():
        rows: dict[str, dict[str, list[float]]] = {}
        for result in results:
            protocol, labels = result["protocol"], result["protocol"]["labels"]
            for reading, its in of_model(result).items():
                row = rows.setdefault(reading.title, {})
                for figure, value in [("miou", its["miou"]), *its["groups"].items()]:
                    row.setdefault(figure, []).append(value)
        splits[split] = {"photos": protocol["photos"], "classes": protocol["classes"], "readings": rows}
    quality = read_json(data / "labels" / labels / "quality.json", "run labelgen.quality first")
    kept = {split: _labels(scores) for split, scores in quality.items()}
    seeds = max(len(row["miou"]) for row in rows.values())
    return {**where(), "seeds": seeds, "splits": splits, "labels": kept}


def _labels(scores: Figures) -> dict[str, Any]:
    rows = {
        name: {"miou": its["miou"], "coverage": its["coverage"], **its["groups"]}
        for name, its in scores["readings"].items()
    }
    return {"readings": rows, "presence": scores["presence"]}


def filled(text: str, sources: Figures, name: str) -> str:
    """The text of page `name` with every block written anew. UserError for a block of no name that is known."""

    def write(block: re.Match[str]) -> str:
        if block[2] not in BLOCKS:
            raise UserError(f"{name}: no figures are called {block[2]!r}; there are {', '.join(BLOCKS)}")
        return f"{block[1]}{BLOCKS[block[2]](sources)}\n{block[4]}"

    return BLOCK.sub(write, text)


def mean(values: list[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(values))


def cell(row: Figures) -> str:
    """`.756 ± .002 (.929, .583)`: mIoU, then its groups."""
    values = row["miou"] if isinstance(row["miou"], list) else [row["miou"]]
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    groups = [number(mean(np.atleast_1d(v).tolist())) for k, v in row.items() if k not in ("miou", "coverage")]
    said = number(mean(values)) + (f" ± {number(spread)}" if spread else "")
    return said + (f" ({', '.join(groups)})" if groups else "")


ROWS: tuple[tuple[Reading | None, str], ...] = (
    (dense_clip("maskclip"), "dense CLIP, MaskCLIP"),
    (dense_clip("naclip"), "dense CLIP, NACLIP"),
    (dense_clip("proxyclip"), "dense CLIP, ProxyCLIP"),
    (None, "the best of them within the present classes"),
    (HEAD, "**head**"),
    (HEAD.within_present, "head, within the present classes"),
    (REFINED, "head, refined"),
    (ORACLE, "oracle"),
)
"""Reading -> what the table calls it."""


def best(readings: Mapping[Reading, Figures], present: bool) -> Reading:
    """The dense CLIP of highest mIoU, unfiltered or within the present classes."""
    return best_dense({reading: mean(row["miou"]) for reading, row in readings.items()}, present)


def heads(sources: Figures) -> str:
    """The table of readings, a column a split."""
    splits = sources["runs"]["splits"]
    groups = [name for name in next(iter(splits.values()))["readings"]["head"] if name != "miou"]
    lines = ["| | " + " | ".join(f"{split}: mIoU ({', '.join(groups)})" for split in splits) + " |"]
    lines.append("|---" * (len(splits) + 1) + "|")
    for named, shown in ROWS:
        cells = []
        for fields in splits.values():
            readings = by_reading(fields["readings"])
            reading = named or best(readings, True)
            cells.append(cell(readings[reading]) if reading in readings else "–")
        lines.append(f"| {shown} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ratios(sources: Figures) -> str:
    """The head over dense CLIP and over the oracle."""
    said: dict[str, list[float]] = {"best unfiltered dense CLIP": [], "oracle": []}
    for fields in sources["runs"]["splits"].values():
        miou = {reading: mean(row["miou"]) for reading, row in by_reading(fields["readings"]).items()}
        said["best unfiltered dense CLIP"].append(miou[HEAD] / miou[best_dense(miou)])
        if ORACLE in miou:
            said["oracle"].append(miou[HEAD] / miou[ORACLE])
    splits = " and ".join(sources["runs"]["splits"])
    parts = [f"head / {name}: {' and '.join(f'{v:.2f}' for v in values)}" for name, values in said.items() if values]
    return f"On {splits}: {'; '.join(parts)}."


LABELS = {
    "dense CLIP, proxyclip": "dense CLIP",
    "dense CLIP, gated by presence": "gated by presence, classes on one scale",
    "stage 1.1": "stage 1.1",
    "stage 1.2": "stage 1.2",
    "merged, all pixels": "merged, all pixels",
    "merged, labelled pixels": "**merged, the pixels it labels**",
    "dense CLIP, labelled pixels": "dense CLIP on the same pixels",
    "true classes given": "merged, with the true classes given",
}


def labels(sources: Figures) -> str:
    """The free labels, stage by stage, and presence."""
    lines = []
    for split, fields in sources["runs"]["labels"].items():
        readings = fields["readings"]
        groups = [k for k in readings["merged"] if k not in ("miou", "coverage")]
        lines += [f"| free labels of `{split}` | mIoU ({', '.join(groups)}) | coverage |", "|---|---|---|"]
        for name, shown in LABELS.items():
            # On labelled pixels coverage is one by definition: what the labels cover says more.
            covers = readings["merged" if "labelled pixels" in name else name]["coverage"]
            lines.append(f"| {shown} | {cell(readings[name])} | {number(covers)} |")
        presence = fields["presence"]
        lines += ["", f"Presence: precision {number(presence['precision'])}, recall {number(presence['recall'])}."]
    return "\n".join(lines)


def setting(sources: Figures) -> str:
    """Where the figures come from."""
    runs = sources["runs"]
    splits = runs["splits"]
    classes = next(iter(splits.values()))["classes"]
    photos = " and ".join(f"{fields['photos']} of `{split}`" for split, fields in splits.items())
    return (
        f"Written by `make figures` and `make readme-figures` from `docs/figures.json` (commit {runs['commit']}, "
        f"{runs['date']}) and\n`docs/claims.json`. Pocket world, {classes} classes, judged on {photos}; mean ± "
        f"standard deviation over {runs['seeds']} seeds."
    )


def verdicts(sources: Figures) -> str:
    """Each claim with its verdict."""
    lines = ["| claim | verdict |", "|---|---|"]
    return "\n".join(
        [*lines, *(f"| {c['title']} | {c['verdict']} |" for c in by_number(sources["claims"]["claims"]).values())]
    )


def tried(sources: Figures) -> str:
    """The rows of claim 9, as one line each."""
    rows = claim_rows(sources, "losses")
    ours = mean(rows[0]["figures"]["mIoU"])
    same = [row for row in rows[1:] if set(row["figures"]) >= {"mIoU"} and not row["name"].startswith("few steps")]
    ordered = sorted(same, key=lambda row: -mean(row["figures"]["mIoU"]))
    said = ", ".join(f"{row['name']} {mean(row['figures']['mIoU']) - ours:+.3f}" for row in ordered)
    return f"Against the shipped config ({number(ours)} on eval), each row one change: {said}."


def new_words(sources: Figures) -> str:
    """Claim 7's classes that training left out."""
    rows = {row["name"]: row["figures"] for row in claim_rows(sources, "zero_shot")}
    ours, alone, dense = (rows[READINGS[reading]] for reading in (HEAD, HEAD_ALONE, DENSE_MAP))
    clip = next(figures for name, figures in rows.items() if name.startswith("dense CLIP") and "unseen" in figures)
    unseen = {"with the dense map": ours, "that map alone": dense, "the head alone": alone, "dense CLIP": clip}
    said = ", ".join(f"{name} {verdict.cell(figures['unseen'])}" for name, figures in unseen.items())
    return (
        f"One class in {LEFT_OUT} left out of training (a draw a seed), asked for beside the others on eval, mIoU of "
        f"those left out:\n{said}.\nOf the trained ones beside them: with the dense map {verdict.cell(ours['seen'])}, "
        f"dense CLIP {verdict.cell(clip['seen'])}."
    )


def claim_rows(sources: Figures, name: str) -> list[Figures]:
    """A claim's rows. UserError where it was not tried."""
    if name not in sources["claims"]["claims"]:
        raise UserError(f"{CLAIMS}: the claim {name} is missing; run experiments.claims --page=docs/claims.md for all")
    rows: list[Figures] = sources["claims"]["claims"][name]["rows"]
    return rows


BLOCKS: dict[str, Callable[[Figures], str]] = {
    "setting": setting,
    "heads": heads,
    "ratios": ratios,
    "labels": labels,
    "verdicts": verdicts,
    "new_words": new_words,
    "tried": tried,
}


def arguments() -> argparse.ArgumentParser:
    """The command line of `python -m tools.readme`."""
    flags = parser(__doc__ or "", config=False)
    flags.add_argument("runs", nargs="*", metavar="RUN", help="folders that fmbseg_jax.evaluate has been run on")
    flags.add_argument("--data", default="", metavar="DATA", help="folder that labelgen.quality has been run on")
    flags.add_argument("--check", action="store_true", help="write nothing; exit code 1 where a page differs")
    return flags


if __name__ == "__main__":
    sys.exit(command(main, arguments()))
