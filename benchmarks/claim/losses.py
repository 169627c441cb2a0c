"""Claim 9: losses and heads, each row one change from the shipped config."""

import numpy as np

from benchmarks.claim.bench import Bench, Fields
from benchmarks.claim.runs import (
    TUNING,
    head_counts,
    miou,
    shipped_question,
    trained,
    tune_question,
    tuning_score,
)
from benchmarks.claim.verdict import SHIPPED, Claim, Comparison, Row

SUPCON = {"train.loss": "t_supcon"}
WEIGHTS, TEMPERATURES = (1.0, 20.0, 50.0), (0.05, 0.1, 0.2)
NOT_TUNED = "one change, not tuned"
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
    """One table; T-SupCon is tuned first, where no eval photo is seen."""
    tuned, notes = tune_supcon(bench)
    shipped = bench.config.train.temperature
    plain = row(bench, "shipped: prototype CE, soft targets, linear", {}, SHIPPED)
    supcon = row(bench, "T-SupCon, tuned", tuned, chosen_by(bench))
    others = [
        row(bench, "T-SupCon, as described (prototype weight 1)", SUPCON, NOT_TUNED),
        supcon,
        *(row(bench, name, fields, NOT_TUNED) for name, fields in rows_tried(shipped).items()),
    ]
    small = [
        row(bench, "few steps, no block", BLOCK_BUDGET, "as many steps as a block can be given on a processor", False),
        row(bench, "few steps, one block", {**BLOCK_BUDGET, "head.blocks": 1}, "as the row above", False),
    ]
    best = max(others, key=lambda other: float(np.mean(other.figures["mIoU"])))
    ours, few = plain.figures["mIoU"], [its.figures["mIoU"] for its in small]
    return Claim(
        "The text-supervised contrastive loss over patches and class prototypes aligns patch features with text.",
        f"Each row trained with {bench.seeds} seeds, scored on {bench.split}. `tune` is another training of the row, "
        f"with seed 0, that holds out {TUNING['train.holdout']:.0%} of the training photos, by their truth.",
        [plain, refined_row(bench), *others, *small],
        [
            Comparison(f"the best other row ({best.name}) is above the shipped one", best.figures["mIoU"], ours),
            Comparison("tuned T-SupCon is above prototype CE", supcon.figures["mIoU"], ours),
            Comparison("one block is above none after as many steps", few[1], few[0]),
        ],
        notes + change_note(plain, others),
    )


def chosen_by(bench: Bench) -> str:
    """What hyper-parameters were chosen by."""
    return "truth of train photos held out (tune)" if tune_question(bench) else "free labels held out"


def row(bench: Bench, name: str, fields: Fields, chosen: str, tune: bool = True) -> Row:
    """A variant over all seeds."""
    question = shipped_question(bench)
    counts = [head_counts(bench, trained(bench, fields, s), question, True)["head"] for s in range(bench.seeds)]
    figures = {"mIoU": [miou(its) for its in counts]}
    return Row(name, figures | ({"tune": [tuning_score(bench, fields)]} if tune else {}), chosen)


def refined_row(bench: Bench) -> Row:
    """The shipped head with a vote inside SAM's masks."""
    question = shipped_question(bench)
    counts = [head_counts(bench, trained(bench, {}, s), question, True)["refined"] for s in range(bench.seeds)]
    return Row("shipped, refined by SAM's masks", {"mIoU": [miou(its) for its in counts]})


def tune_supcon(bench: Bench) -> tuple[Fields, list[str]]:
    """The best prototype weight, then the best temperature, by tuning_score; what was found, in words."""
    tried: list[tuple[float, dict[str, object]]] = []
    for weight in WEIGHTS:
        fields: dict[str, object] = {**SUPCON, "train.supcon_prototype_weight": weight}
        tried.append((tuning_score(bench, fields), fields))
    weight_best = max(tried, key=lambda pair: pair[0])[1]
    for temperature in TEMPERATURES:
        if temperature != bench.config.train.temperature:
            fields = {**weight_best, "train.temperature": temperature}
            tried.append((tuning_score(bench, fields), fields))
    said = ", ".join(f"weight {f['train.supcon_prototype_weight']:g}{_at(f)}: {value:.3f}" for value, f in tried)
    return max(tried, key=lambda pair: pair[0])[1], [f"T-SupCon tuned by {chosen_by(bench)}: {said}."]


def _at(fields: Fields) -> str:
    return f" temperature {fields['train.temperature']:g}" if "train.temperature" in fields else ""


def change_note(plain: Row, others: list[Row]) -> list[str]:
    """Which row the shipped config should become, by tune alone, if any is better."""
    ours = plain.figures["tune"][0]
    better = sorted((r for r in others if r.figures["tune"][0] > ours), key=lambda r: -r.figures["tune"][0])
    if not better:
        return ["By tune no row is above the shipped one: it stays."]
    names = ", ".join(f"{r.name} {r.figures['tune'][0] - ours:+.3f}" for r in better)
    return [f"By tune these rows are above the shipped one: {names}."]
