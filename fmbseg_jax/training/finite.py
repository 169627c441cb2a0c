"""A training whose figures are no longer finite ends: at which step, of which photos, and what to do."""

import math
from collections.abc import Iterable, Mapping

from fmbseg_jax.training.feed import Examples
from labelgen.core.errors import UserError

_NAMED = 5


def finite(figures: Mapping[str, float]) -> bool:
    """Whether all of them are: of loss and gradient norm this holds as long as parameters and moments stay finite."""
    return all(map(math.isfinite, figures.values()))


def no_longer_finite(
    step: int, figures: Mapping[str, float], examples: Examples, rows: Iterable[int], kept: int | None
) -> UserError:
    """The error for figures of `step` that are not finite.

    rows: those that the figures are of; their features are looked at now. kept: the newest checkpoint, if any.
    """
    told = ", ".join(f"{name} {value}" for name, value in figures.items() if not math.isfinite(value))
    broken = sorted(set(examples.not_finite(rows)))
    if broken:
        names = ", ".join(broken[:_NAMED]) + (f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else "")
        why = f"features in DATA of {names} are not finite; encode anew with labelgen.run and --config.dtype=float32"
    else:
        why = (
            "the features of its photos are finite, so the training runs away; train into another --workdir with "
            "a lower --config.train.learning_rate"
        )
    last = "no checkpoint was written" if kept is None else f"the checkpoint of step {kept} is kept"
    return UserError(f"step {step}: {told}: {why}; {last}")
