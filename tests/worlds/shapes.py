"""The modules whose annotations every test checks in each call, shapes of arrays too, and what checks them."""

from collections.abc import Callable
from typing import Any

from beartype import beartype

SHAPED = (
    "fmbseg_jax.runs.head",
    "fmbseg_jax.training.batch",
    "fmbseg_jax.training.losses",
    "fmbseg_jax.training.step",
    "labelgen.labels.free_labels",
    "labelgen.labels.presence",
)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """With its arguments and result checked; not what makes a pytree, which jax makes of shapes and shardings too."""
    makes_pytree = function.__name__ == "__init__" and function.__module__.startswith("fmbseg_jax.")
    return function if makes_pytree else beartype(function)
