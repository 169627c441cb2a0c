"""How well the head says what it was not trained on: its loss on rows held out, by their free labels. No truth."""

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding

from fmbseg_jax.feed import Rows, held_out_batches
from fmbseg_jax.gather import Batch
from fmbseg_jax.place import place
from fmbseg_jax.runs.head import State
from fmbseg_jax.step import Outcome, Teacher
from fmbseg_jax.task import Task


class HeldOut:
    """The loss on rows that are not trained on; None where there are none."""

    def __init__(
        self,
        task: Task,
        sums: Callable[[object, Batch, Teacher], Outcome],
        teacher: Teacher,
        over_data: NamedSharding,
        places: Rows,
    ):
        self._task, self._sums, self._teacher, self._over_data = task, sums, teacher, over_data
        self._places = places

    def __call__(self, state: State, batch_size: int) -> dict[str, float]:
        """{"held_out_loss", "held_out_agreement"} of the state, or nothing; the same on every host.

        On another number of devices a batch is added up in another order: equal to some 6 digits.
        """
        rows = self._task.held_out_rows
        if not len(rows):
            return {}
        total = np.zeros(4)
        for batch in held_out_batches(self._task.examples, rows, batch_size, self._places):
            # Fetched one by one: no more than a batch of work is ever queued.
            total += jax.device_get(self._sums(state.params, place(batch, self._over_data), self._teacher))
        loss, weight, hits, mass = total
        return {"held_out_loss": loss / max(weight, 1e-6), "held_out_agreement": hits / max(mass, 1e-6)}
