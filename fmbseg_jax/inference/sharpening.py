"""Edges that follow the photo: pixel-adaptive mask refinement (Araslanov & Roth, "Single-Stage Semantic Segmentation
from Image Labels", CVPR 2020, section 3.3), as most open-vocabulary methods report beside their plain masks.

Data flow: patch maps resized to pixels (label_maps) and the photo -> here -> the same maps, sharpened. A pixel's value
becomes the mean of 48 neighbours', on rings of 1 to 24 px, weighted by how near their colours are to its own; ten times
over. It is linear in the maps, so that classes go by in groups of a fixed number.

One compiled function for each canvas: photos lie in the upper left of one whose sides are multiples of CANVAS_PX, and
what is beyond a photo is never read.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float32, Int32
from numpy.typing import NDArray

Floats = NDArray[np.float32]

ITERATIONS = 10
DILATIONS = (1, 2, 4, 8, 12, 24)
"""px between a pixel and its neighbours, eight to each."""
SOFTNESS = 0.1
"""Of the colours' deviation in the neighbourhood: differences of so much cost a factor of e."""
CANVAS_PX = 128
CLASSES = 8
"""Sharpened at a time."""
REACH = max(DILATIONS)
STEPS_YX = np.array([(d * y, d * x) for d in DILATIONS for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x], np.int32)


def sharpened(maps: Floats, image: NDArray[np.uint8]) -> Floats:
    """Maps float32 [C, H, W] of a photo uint8 [H, W, 3], each pixel a weighted mean of what was round it."""
    height, width = maps.shape[1:]
    size_hw, canvas_hw = jnp.array([height, width]), _canvas(height, width)
    weights = _weights(_padded(image.astype(np.float32), canvas_hw), size_hw)
    out = np.empty_like(maps)
    for first in range(0, len(maps), CLASSES):
        part = maps[first : first + CLASSES].transpose(1, 2, 0)
        filled = np.pad(part, ((0, 0), (0, 0), (0, CLASSES - part.shape[2])))
        found = np.asarray(_averaged(_padded(filled, canvas_hw), weights, size_hw))
        out[first : first + CLASSES] = found[:height, :width, : part.shape[2]].transpose(2, 0, 1)
    return out


def _canvas(*sides: int) -> tuple[int, ...]:
    return tuple(-(-side // CANVAS_PX) * CANVAS_PX for side in sides)


def _padded(array: Floats, canvas_hw: tuple[int, ...]) -> Floats:
    return np.pad(array, [*((0, to - side) for side, to in zip(array.shape, canvas_hw, strict=False)), (0, 0)])


@jax.jit
def _weights(image: Float32[Array, "H W 3"], size_hw: Int32[Array, "2"]) -> Float32[Array, "N H W"]:
    """Of each neighbour, their sum one: softmax of -|difference| / (SOFTNESS deviation), the mean over the channels.

    The deviation is that of all rings together, in which the pixel itself counts once a ring.
    """
    beyond, rings = _with_surroundings(image, size_hw), len(DILATIONS)
    steps = jnp.asarray(STEPS_YX)
    count = len(steps) + rings

    def total(of: Callable[[Array], Array]) -> Array:
        """The sum of `of` over the pixel and its neighbours."""
        found: Array = jax.lax.fori_loop(
            0, len(steps), lambda i, so_far: so_far + of(_shifted(beyond, steps[i], image.shape)), rings * of(image)
        )
        return found

    mean = total(lambda x: x) / count
    deviation = jnp.sqrt(total(lambda x: (x - mean) ** 2) / (count - 1))

    def likeness(step: Array) -> Array:
        difference = jnp.abs(image - _shifted(beyond, step, image.shape))
        energy: Array = -(difference / (1e-8 + SOFTNESS * deviation)).mean(-1)
        return energy

    return jax.nn.softmax(jax.lax.map(likeness, steps), axis=0)


@jax.jit
def _averaged(
    maps: Float32[Array, "H W C"], weights: Float32[Array, "N H W"], size_hw: Int32[Array, "2"]
) -> Float32[Array, "H W C"]:
    """The maps after all iterations."""

    def once(_: int, maps: Array) -> Array:
        beyond = _with_surroundings(maps, size_hw)
        terms = (w[..., None] * _shifted(beyond, step, maps.shape) for w, step in zip(weights, STEPS_YX, strict=True))
        mean: Array = functools.reduce(jnp.add, terms)
        return mean

    found: Array = jax.lax.fori_loop(0, ITERATIONS, once, maps)
    return found


def _with_surroundings(array: Float32[Array, "H W C"], size_hw: Int32[Array, "2"]) -> Float32[Array, "h w C"]:
    """REACH more on each side: the photo's outermost pixels repeated, over what the canvas has beyond the photo too."""
    rows, columns = (
        jnp.clip(jnp.arange(-REACH, side + REACH), 0, last - 1)
        for side, last in zip(array.shape, size_hw, strict=False)
    )
    return array[rows][:, columns]


def _shifted(beyond: Float32[Array, "h w C"], step_yx: Any, shape: tuple[int, ...]) -> Float32[Array, "H W C"]:
    y, x = step_yx
    return jax.lax.dynamic_slice(beyond, (REACH + y, REACH + x, 0), shape)
