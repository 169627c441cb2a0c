"""The array type in annotations of shape that a machine checks: Float32[Numpy, "h w"]."""

from typing import Any

import numpy as np

Numpy = np.ndarray[Any, np.dtype[Any]]
"""Not NDArray[...]: from numpy 2.5 on that is no class, and jaxtyping 0.3.11 asks for one."""
