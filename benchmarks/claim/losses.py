"""Claim 9: losses and heads, each row one change from the shipped config."""

import numpy as np

from benchmarks.claim.bench import Bench, Fields
from benchmarks.claim.runs import (
    Question,
    head_counts,
    held_out_agreement,
    miou,
    shipped_question,
    trained,
    tune_question,
)
from benchmarks.claim.verdict import SHIPPED, Claim, Comparison, Row

SUPCON = {"train.loss": "t_supcon"}
WEIGHTS, TEMPERATURES = (1.0, 20.0, 50.0), (0.05, 0.1, 0.2)
BLOCK_BUDGET = {"train.steps": 60, "train.warmup_steps": 10, "train.batch_size": 16, "train.save_every": 60}
"""A block costs hundreds of times a linear map here: it and its counterpart get this little training."""


def rows_tried(shipped: float) -> dict[str, Fields]:
    """Row -> the one change. shipped: train.temperature."""
    temperatures = {f"temperature {t:g}": {"train.temperature": t} for t in (0.04, 0.07, 0.1, 0.2, 0.4) if t != shipped}
    return {
        "hard targets": {"train.soft_targets": False},
        "learned temperature": {"train.learn_temperature": True},
        **temperatures,
        "class balance .5": {"train.class_balance": 0.5},
        "class balance 1": {"train.class_balance": 1.0},
        "MLP, 256 wide": {"head.hidden": 256},
    }


def run(bench: Bench) -> Claim:
    """One table; T-SupCon is tuned first, with one seed, where no eval photo is seen."""
    tune = tune_question(bench)
    tuned, notes = tune_supcon(bench, tune)
    shipped = bench.config.train.temperature
    table = [
        row(bench, "shipped: prototype CE, soft targets, linear", {}, tune, SHIPPED),
        row(bench, "T-SupCon, as described (prototype weight 1)", SUPCON, tune, SHIPPED),
        row(bench, "T-SupCon, tuned", tuned, tune, chosen_by(tune)),
        *(row(bench, name, fields, tune, "one change, not tuned") for name, fields in rows_tried(shipped).items()),
    ]
    table[1:1] = [refined_row(bench)]
    small = [
        row(bench, "few steps, no block", BLOCK_BUDGET, tune, "as many steps as a block can be given here"),
        row(bench, "few steps, one block", {**BLOCK_BUDGET, "head.blocks": 1}, tune, "as the row above"),
    ]
    rivals = [other for other in table[1:] if other.figures["mIoU"]]
    best = max(rivals, key=lambda other: float(np.mean(other.figures["mIoU"])))
    return Claim(
        "The text-supervised contrastive loss over patches and class prototypes aligns patch features with text.",
        f"Each row trained with {bench.seeds} seeds, scored on {bench.split}; `tune` are the photos that training "
        "holds out, by their truth, `agreement` the same photos by their free labels.",
        [*table, *small],
        [
            Comparison(
                f"the shipped row is not beaten by the best other one ({best.name}) by more than .005",
                table[0].figures["mIoU"],
                best.figures["mIoU"],
                -0.005,
            ),
            Comparison(
                "tuned T-SupCon is within .005 of prototype CE or above it",
                table[3].figures["mIoU"],
                table[0].figures["mIoU"],
                -0.005,
            ),
            Comparison("one block beats none at equal steps", small[1].figures["mIoU"], small[0].figures["mIoU"]),
        ],
        notes + change_note(table),
    )


def chosen_by(tune: Question | None) -> str:
    """What hyper-parameters were chosen by."""
    return "truth of held-out train photos (tune)" if tune else "agreement with held-out free labels"


def row(bench: Bench, name: str, fields: Fields, tune: Question | None, chosen: str) -> Row:
    """A variant over all seeds."""
    figures: dict[str, list[float]] = {"mIoU": [], "tune mIoU": [], "agreement": []}
    for seed in range(bench.seeds):
        folder = trained(bench, fields, seed)
        figures["mIoU"].append(miou(head_counts(bench, folder, shipped_question(bench), True)["head"]))
        figures["agreement"].append(held_out_agreement(folder))
        if tune:
            figures["tune mIoU"].append(miou(head_counts(bench, folder, tune)["head"]))
    return Row(name, {key: values for key, values in figures.items() if values}, chosen)


def refined_row(bench: Bench) -> Row:
    """The shipped head with a vote inside SAM's masks."""
    question = shipped_question(bench)
    counts = [head_counts(bench, trained(bench, {}, s), question, True)["refined"] for s in range(bench.seeds)]
    return Row("shipped, refined by SAM's masks", {"mIoU": [miou(its) for its in counts]})


def score(bench: Bench, fields: Fields, tune: Question | None) -> float:
    """What a choice is made by, with seed 0: mIoU of the tune photos, else agreement."""
    folder = trained(bench, fields, 0)
    return miou(head_counts(bench, folder, tune)["head"]) if tune else held_out_agreement(folder)


def tune_supcon(bench: Bench, tune: Question | None) -> tuple[Fields, list[str]]:
    """The best prototype weight, then the best temperature, by `score`; what was found, in words."""
    tried: list[tuple[float, dict[str, object]]] = []
    for weight in WEIGHTS:
        fields: dict[str, object] = {**SUPCON, "train.supcon_prototype_weight": weight}
        tried.append((score(bench, fields, tune), fields))
    weight_best = max(tried, key=lambda pair: pair[0])[1]
    for temperature in TEMPERATURES:
        if temperature != bench.config.train.temperature:
            fields = {**weight_best, "train.temperature": temperature}
            tried.append((score(bench, fields, tune), fields))
    said = ", ".join(f"weight {f['train.supcon_prototype_weight']:g}{_at(f)}: {value:.3f}" for value, f in tried)
    return max(tried, key=lambda pair: pair[0])[1], [f"T-SupCon tuned with seed 0 by {chosen_by(tune)}: {said}."]


def _at(fields: Fields) -> str:
    return f" temperature {fields['train.temperature']:g}" if "train.temperature" in fields else ""


def change_note(table: list[Row]) -> list[str]:
    """Which row the shipped config should become, by tune alone, if any is better with every seed."""
    key = "tune mIoU" if "tune mIoU" in table[0].figures else "agreement"
    ours = table[0].figures[key]
    better = [r for r in table[1:] if key in r.figures and min(np.subtract(r.figures[key], ours)) > 0]
    if not better:
        return [f"By {key} no row is above the shipped one with every seed: it stays."]
    best = max(better, key=lambda r: float(np.mean(r.figures[key])))
    names = ", ".join(r.name for r in better)
    return [f"By {key} these rows are above the shipped one with every seed: {names}; the best is {best.name}."]
