"""claims.json as a page: each claim with its sentence, what ran, its table, plots, comparisons and verdict."""

from collections.abc import Collection, Mapping
from typing import Any

from experiments.verdict import RULE, cell

HEAD = """# The claims, tried

Written by `python -m experiments.claims`; every figure below is in `claims.json` beside it. Mean ± standard deviation
over seeds. Negative results stay.
"""

COLUMNS = ("mIoU", "IoU", "recall", "precision", "seen", "unseen", "harmonic mean", "tune")
"""What stands first in a table, in this order: claims.json sorts its names."""


def page(claims: Mapping[str, Any], plots: str = "plots") -> str:
    """Markdown. claims: what claims.json has; plots: the folder of plots, seen from the page."""
    about = claims["about"]
    commits = {claim.get("commit", about["commit"]) for claim in claims["claims"].values()} or {about["commit"]}
    lines = [HEAD, setting(about, commits), f"**How a verdict is reached.** {RULE}", ""]
    lines += ["| claim | verdict |", "|---|---|"]
    tried = by_number(claims["claims"])
    for name, claim in tried.items():
        lines.append(f"| [{claim['title']}](#{anchor(claim['title'])}) (`--only={name}`) | {claim['verdict']} |")
    for claim in tried.values():
        lines += ["", *section(claim, plots), *([made_at(claim, about)] if len(commits) > 1 else [])]
    lines += ["", "## Where the time went", "", time_line(tried)]
    return "\n".join(lines) + "\n"


def by_number(claims: Mapping[str, Any]) -> dict[str, Any]:
    """The claims in the order of their numbers."""
    return dict(sorted(claims.items(), key=lambda pair: int(pair[1]["title"].partition(".")[0])))


def made_at(claim: Mapping[str, Any], about: Mapping[str, Any]) -> str:
    """Which commit a claim's figures are of."""
    return f"Tried at commit {claim.get('commit', about['commit'])}."


def setting(about: Mapping[str, Any], commits: Collection[str]) -> str:
    """Which config, words and photos; commits: those that the claims were tried at."""
    commit = f"commit {min(commits)}" if len(commits) == 1 else f"{len(commits)} commits, which each claim names"
    photos = ", ".join(f"{count} of {split}" for split, count in about["photos"].items())
    return (
        f"`{about['config']}`: {about['classes']} classes, photos {photos}; {about['seeds']} seeds. "
        f"Judged on `{about['split']}`. {about['date']}, {commit}, {about['cores']} cores of "
        f"{about['processor']}, at the end {about['load']} processes wanting one.\n"
    )


def anchor(title: str) -> str:
    """What GitHub makes of a heading."""
    return "".join(c for c in title.lower().replace(" ", "-") if c.isalnum() or c == "-")


def section(claim: Mapping[str, Any], plots: str) -> list[str]:
    """One claim."""
    lines = [
        f"## {claim['title']}",
        "",
        *([f"> {claim['sentence']}", ""] if claim["sentence"] else []),
        claim["ran"],
        "",
    ]
    lines += tables(claim["rows"])
    pictures = [f"{plot['name']}.svg" for plot in claim["plots"]] + list(claim["pictures"])
    lines += [line for name in pictures for line in (f"![{claim['title']}: {name}]({plots}/{name})", "")]
    for comparison in claim["comparisons"]:
        differences = ", ".join(f"{d:+.3f}" for d in comparison["differences"])
        lines.append(f"- {comparison['answer']}: {comparison['said']} (differences by seed: {differences})")
    lines += [f"- {note}" for note in claim["notes"]]
    return [*lines, *[""] * (lines[-1] != ""), f"Verdict: **{claim['verdict']}**."]


def tables(rows: list[Mapping[str, Any]]) -> list[str]:
    """Markdown tables; rows of other figures begin a new one."""
    lines: list[str] = []
    shown: list[str] = []
    for row in rows:
        columns = sorted(
            row["figures"], key=lambda name: (COLUMNS.index(name) if name in COLUMNS else len(COLUMNS), name)
        )
        if not set(columns) <= set(shown):
            shown = columns
            lines += [""] * bool(lines) + [
                "| | " + " | ".join(shown) + " | chosen by |",
                "|---" * (len(shown) + 2) + "|",
            ]
        figures = " | ".join(cell(row["figures"].get(name, [])) for name in shown)
        lines.append(f"| {row['name']} | {figures} | {row['chosen_by']} |")
    return [*lines, ""] if lines else []


def time_line(claims: Mapping[str, Any]) -> str:
    """Seconds of each claim."""
    spent = {name: claim["seconds"] for name, claim in claims.items()}
    said = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in spent.items())
    return f"{sum(spent.values()) / 60:.1f} minutes in all: {said}."
