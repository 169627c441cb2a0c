"""How the pocket weights are kept small: float16, and the large matrices of the transformer blocks as float8 (e4m3).

torch casts to the model's own type when a file is loaded, so every loader reads them as they are. Rounding a matrix to
float8 moves it by 2.7 % of its norm; the models' docstrings give their figures with the files as they lie here.
The SAM that ships was written before and is float16 throughout; training it again writes it like the others.
"""

import hashlib
import os
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

SMALLEST_MATRIX = 8000


def compact(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a state dict as they are stored."""
    return {name: _stored(name, value.detach()) for name, value in state.items()}


def _stored(name: str, value: Tensor) -> Tensor:
    if "blocks" in name and value.ndim == 2 and value.numel() >= SMALLEST_MATRIX:
        return value.float().to(torch.float8_e4m3fn).contiguous()
    return value.half().contiguous() if value.is_floating_point() else value.contiguous()


def write(path: Path, state: dict[str, Tensor]) -> str:
    """Writes a safetensors file whole or not at all; its hex SHA-256, for the model config beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save(compact(state))
    partial = path.with_suffix(".partial")
    partial.write_bytes(data)
    os.replace(partial, path)
    return hashlib.sha256(data).hexdigest()
