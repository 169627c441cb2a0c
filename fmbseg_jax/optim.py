"""The optimiser: AdamW, linear warm-up, cosine decay to zero, gradients clipped by their global norm."""

from typing import Any

import jax
import optax


def schedule(learning_rate: float, warmup_steps: int, steps: int) -> optax.Schedule:
    """Learning rate of a step: 0 up to `learning_rate` over the warm-up, then down a cosine to 0 at `steps`."""
    return optax.warmup_cosine_decay_schedule(0.0, learning_rate, warmup_steps, steps)


def adamw(
    learning_rate: float, warmup_steps: int, steps: int, weight_decay: float, clip_norm: float
) -> optax.GradientTransformation:
    """The whole update. Matrices decay; biases, norms and the temperature do not."""
    return optax.chain(
        optax.clip_by_global_norm(clip_norm),
        optax.adamw(schedule(learning_rate, warmup_steps, steps), weight_decay=weight_decay, mask=_matrices),
    )


def _matrices(params: Any) -> Any:
    return jax.tree.map(lambda x: x.ndim > 1, params)
