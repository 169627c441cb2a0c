"""The claims, in the paper's order."""

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.claims import losses
from benchmarks.claims.bench import Bench
from benchmarks.claims.verdict import Claim


class Entry(NamedTuple):
    """A claim that can be tried."""

    title: str
    run: Callable[[Bench], Claim]


CLAIMS = {
    "losses": Entry("9. Losses and head", losses.run),
}
