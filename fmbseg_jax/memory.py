"""Memory for batches, taken again and again: memory new to a process is filled with zeros first, page by page."""

import math
import weakref
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ALIGNED = 64  # bytes; memory that begins at a multiple of them jax takes over as it is, other memory it copies


class BatchMemory:
    """Arrays of the shapes and types of an example, with an axis of `count` before them. Threads may share it.

    A batch's memory is taken again once nothing refers to any of its arrays: neither to a view of one, nor to what jax
    made of one, whether that is the same memory or a copy still under way.
    """

    def __init__(self, example: Mapping[str, NDArray[Any]], count: int):
        self._places: dict[str, tuple[slice, np.dtype[Any], tuple[int, ...]]] = {}
        self._size = 0
        for name, value in example.items():
            shape, start = (count, *value.shape), self._size
            end = start + math.prod(shape) * value.itemsize
            self._places[name] = slice(start, end), value.dtype, shape
            self._size = -(-end // _ALIGNED) * _ALIGNED
        self._free: list[NDArray[np.uint8]] = []

    def take(self) -> dict[str, NDArray[Any]]:
        """A batch of arrays that nobody else holds, with anything in them."""
        try:
            block = self._free.pop()
        except IndexError:
            block = _aligned(self._size)
        # Every view of a view refers to the first one that is not of another array: to this one.
        owner = np.frombuffer(block.data, np.uint8)
        weakref.finalize(owner, self._free.append, block).atexit = False
        return {name: owner[at].view(dtype).reshape(shape) for name, (at, dtype, shape) in self._places.items()}


def _aligned(size: int) -> NDArray[np.uint8]:
    memory = np.empty(size + _ALIGNED, np.uint8)
    start = -memory.ctypes.data % _ALIGNED
    return memory[start : start + size]
