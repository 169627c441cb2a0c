"""Claim 9: losses and heads, each row one change from the shipped config."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from experiments.bench import Bench, Fields, text
from experiments.runs import (
    TUNING,
    head_counts,
    miou,
    shipped_question,
    trained,
    tune_question,
    tuning_score,
)
from experiments.verdict import SHIPPED, Claim, Comparison, Row
from fmbseg_jax.reporting.readings import HEAD, REFINED
from fmbseg_jax.runs.settings import by_batch

CE, SUPCON = "prototype_ce", "t_supcon"
NAMES = {CE: "prototype CE", SUPCON: "T-SupCon"}
WEIGHT, SAMPLES, TEMPERATURE = "train.supcon_prototype_weight", "train.supcon_samples", "train.temperature"
WEIGHTS, TEMPERATURES = (1.0, 10.0, 50.0), (0.05, 0.1, 0.2)
NOT_TUNED = "one change, not tuned"
SEED_NOISE = 0.002
"""Of mIoU: the standard deviation over seeds of most rows. What differs by less is no reason to change a config."""
BLOCK_BUDGET = {"train.steps": 60, "train.warmup_steps": 10, "train.batch_size": 16, "train.save_every": 60}
"""A block costs hundreds of times a linear map here: it and its counterpart get this little training."""


def run(bench: Bench) -> Claim:
    """One table; the loss that is not shipped is tuned first, where no eval photo is seen."""
    shipped_loss = bench.config.train.loss
    other_loss = SUPCON if shipped_loss == CE else CE
    tuned, note = tune(bench, other_loss)
    plain = row(bench, f"shipped: {described(bench)}", {}, SHIPPED)
    other = row(bench, f"{NAMES[other_loss]}, tuned", tuned, chosen_by(bench))
    hard = hard_targets(bench, tuned if other_loss == CE else {}, other.name)
    others = [other, *(row(bench, name, fields, NOT_TUNED) for name, fields in [*hard, *one_change(bench)])]
    small = [
        row(bench, "few steps, no block", BLOCK_BUDGET, "as many steps as a block can be given on a processor", False),
        row(bench, "few steps, one block", {**BLOCK_BUDGET, "head.blocks": 1}, "as the row above", False),
    ]
    supcon, ce = (plain, other) if shipped_loss == SUPCON else (other, plain)
    few = [its.figures["mIoU"] for its in small]
    return Claim(
        "The text-supervised contrastive loss over patches and class prototypes aligns patch features with text.",
        f"Each row trained with {bench.seeds} seeds, scored on {bench.split}. `tune` is another training of the row, "
        f"with seed 0, that holds out {TUNING['train.holdout']:.0%} of the training photos, scored by "
        f"{'their truth' if tune_question(bench) else 'their free labels'}.",
        [plain, refined_row(bench), *others, *small],
        [
            Comparison("T-SupCon is above prototype CE", supcon.figures["mIoU"], ce.figures["mIoU"]),
            Comparison("one block is above none after as many steps", few[1], few[0]),
        ],
        [note, best_note(plain, others)],
    )


def described(bench: Bench) -> str:
    """`T-SupCon, prototype weight 20, temperature 0.1, linear` of the shipped config."""
    train, head = bench.config.train, bench.config.head
    weight = f", prototype weight {train.supcon_prototype_weight:g}" if train.loss == SUPCON else ""
    targets = "" if train.loss == SUPCON else f", {'soft' if train.soft_targets else 'hard'} targets"
    shape = f"MLP, {head.hidden} wide" if head.hidden else "linear"
    return f"{NAMES[train.loss]}{weight}{targets}, temperature {train.temperature:g}, {shape}"


def one_change(bench: Bench) -> list[tuple[str, Fields]]:
    """Row -> what it changes; a setting that is shipped is left out."""
    train = bench.config.train
    changes: list[tuple[str, str, Any]] = [
        ("learned temperature", "train.learn_temperature", True),
        *((f"temperature {value:g}", TEMPERATURE, value) for value in TEMPERATURES),
        ("no class balance", "train.class_balance", 0.0),
        *((f"class balance {value:g}", "train.class_balance", value) for value in (0.5, 1.0)),
        ("MLP, 256 wide", "head.hidden", 256),
    ]
    if train.loss == SUPCON:
        as_described = {1.0: ", as described"}
        changes += [(f"prototype weight {w:g}{as_described.get(w, '')}", WEIGHT, w) for w in WEIGHTS]
        changes.append(("four times the contrast set", SAMPLES, 4 * by_batch(bench.config)["supcon_samples"]))
    shipped = {name: text(bench.config[name.split(".")[0]][name.split(".")[1]]) for _, name, _ in changes}
    return [(said, {name: value}) for said, name, value in changes if text(value) != shipped[name]]


def hard_targets(bench: Bench, ce: Fields, name: str) -> list[tuple[str, Fields]]:
    """Prototype CE with a patch's largest class alone (T-SupCon knows no other); nothing where that is shipped."""
    shipped = bench.config.train.loss == CE
    if shipped and not bench.config.train.soft_targets:
        return []
    return [("hard targets" if shipped else f"{name}, hard targets", {**ce, "train.soft_targets": False})]


def chosen_by(bench: Bench) -> str:
    """What hyper-parameters were chosen by."""
    return "truth of train photos held out (tune)" if tune_question(bench) else "free labels held out"


def row(bench: Bench, name: str, fields: Fields, chosen: str, tune: bool = True) -> Row:
    """A variant over all seeds."""
    question = shipped_question(bench)
    counts = [head_counts(bench, trained(bench, fields, s), question, True)[HEAD] for s in range(bench.seeds)]
    figures = {"mIoU": [miou(its) for its in counts]}
    return Row(name, figures | ({"tune": [tuning_score(bench, fields)]} if tune else {}), chosen)


def refined_row(bench: Bench) -> Row:
    """The shipped head with a vote inside SAM's masks."""
    question = shipped_question(bench)
    counts = [head_counts(bench, trained(bench, {}, s), question, True)[REFINED] for s in range(bench.seeds)]
    held_out, figures = tune_question(bench), {"mIoU": [miou(its) for its in counts]}
    if held_out:
        figures["tune"] = [miou(head_counts(bench, trained(bench, TUNING, 0), held_out, True)[REFINED])]
    return Row("shipped, refined by SAM's masks", figures)


def tune(bench: Bench, loss: str) -> tuple[Fields, str]:
    """The best settings of a loss by tuning_score, T-SupCon's prototype weight before the temperature; and in words."""
    tried: list[tuple[float, Fields]] = []

    def best_of(all_fields: Iterable[Fields]) -> Fields:
        tried.extend((tuning_score(bench, fields), fields) for fields in all_fields)
        return max(tried, key=lambda pair: pair[0])[1]

    best: Fields = {"train.loss": loss}
    if loss == SUPCON:
        best = best_of({**best, WEIGHT: weight} for weight in WEIGHTS)
    best = best_of({**best, TEMPERATURE: temperature} for temperature in TEMPERATURES)
    said = "; ".join(f"{_settings(fields)} {value:.3f}" for value, fields in tried)
    return best, f"{NAMES[loss]} tuned by {chosen_by(bench)}: {said}."


def _settings(fields: Fields) -> str:
    said = {WEIGHT: "prototype weight", TEMPERATURE: "temperature"}
    return ", ".join(f"{said[name]} {value:g}" for name, value in fields.items() if name in said)


def best_note(plain: Row, others: list[Row]) -> str:
    """Which row the shipped config should become, by tune alone, if any is better by more than SEED_NOISE."""
    above = {its.name: float(its.figures["tune"][0] - plain.figures["tune"][0]) for its in others}
    better = sorted((name for name, more in above.items() if more > SEED_NOISE), key=lambda name: -above[name])
    if not better:
        name = max(above, key=lambda name: above[name])
        said = f"the next, {name}, differs by {above[name]:+.3f}"
        return f"By tune no row is above the shipped one by more than {SEED_NOISE:g}, so it stays: {said}."
    names = ", ".join(f"{name} {above[name]:+.3f}" for name in better)
    on_eval = {its.name: float(np.mean(its.figures["mIoU"])) for its in [plain, *others]}
    best = f"on eval {on_eval[better[0]] - on_eval[plain.name]:+.3f} for the first"
    return f"By tune these rows are above the shipped one by more than {SEED_NOISE:g}: {names} ({best})."
