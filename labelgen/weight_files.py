"""Weight files: found in a local folder first, else fetched by the library's own loader; digests; what must fit.

Data flow: config + weights_dir -> a checked file -> a model of the library's own class (clip, sam, dinov2).
"""

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from labelgen.errors import UserError


def digest(path: str | Path) -> str:
    """Hex sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def find(
    weights_dir: str | Path,
    names: str | Sequence[str],
    sha256: str = "",
    fetch: Callable[[], str | Path] | None = None,
    source: str = "",
) -> Path:
    """The first of these files in weights_dir, else what `fetch` brings; its digest checked where `sha256` is given.

    source: where a person gets the file, for the message. UserError when there is no file, saying what to fetch from
    where and what to name it, or when its digest is another one.
    """
    names = [names] if isinstance(names, str) else names
    path = next((file for name in names if (file := Path(weights_dir, name)).is_file()), None)
    if path is None:
        path = _fetched(Path(weights_dir, names[0]), fetch, source)
    if sha256 and (found := digest(path)) != sha256:
        raise UserError(f"{path}: sha256 is {found}, but {sha256} is wanted; fetch the file again or mend the digest")
    return path


def _fetched(wanted: Path, fetch: Callable[[], str | Path] | None, source: str) -> Path:
    """What `fetch` brings; whatever stops it becomes one line that says how to do without."""
    reason = ""
    if fetch is not None:
        try:
            return Path(fetch())
        except Exception as error:  # each library's downloader raises its own
            reason = f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    mend = f"download it from {source} and save it as {wanted}" if source else "correct the name or weights_dir"
    raise UserError(f"{wanted}: no such weight file, and it could not be fetched{reason}; {mend}")


def read_config(weights_dir: str | Path, name: str, needed: Sequence[str]) -> dict[str, Any]:
    """A model config (*.json in weights_dir) that says how the library builds a model; UserError unless it has all of
    `needed`."""
    path = Path(weights_dir, name)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such model config; correct the name or weights_dir") from None
    except ValueError as error:
        raise UserError(f"{path}: is no JSON ({error})") from error
    missing = [key for key in needed if key not in config]
    if missing:
        raise UserError(f"{path}: has no {missing[0]!r}; is it the config of another model?")
    return dict(config)


@contextmanager
def building(what: str) -> Iterator[None]:
    """Constructor arguments that the library refuses become a UserError that names the model config."""
    try:
        yield
    except UserError:
        raise
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError, ZeroDivisionError) as error:
        raise UserError(f"{what}: the model cannot be built from this ({type(error).__name__}: {error})") from error


@contextmanager
def loading(path: Path, model: str) -> Iterator[None]:
    """Whatever a damaged file, or one of another model, makes the loaders raise becomes a UserError that names both."""
    try:
        yield
    except (SafetensorError, pickle.UnpicklingError, EOFError, OSError) as error:
        raise UserError(f"{path}: cannot be read as weights ({_brief(error)}); fetch the file again") from error
    except (RuntimeError, KeyError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"{path}: are the weights of another model than {model} ({_brief(error)})") from error


def _brief(error: Exception) -> str:
    """The first telling line: load_state_dict puts it below its heading."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:300] if lines else type(error).__name__


def read_state(path: Path) -> dict[str, Tensor]:
    """Tensors of a .safetensors or PyTorch file, on the CPU; nothing in the file is executed."""
    if path.suffix == ".safetensors":
        return load_file(path)
    state: Mapping[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return dict(state)


def load_state(model: nn.Module, path: Path, name: str) -> None:
    """Fills `model`; UserError unless every key and shape fits."""
    with loading(path, name):
        model.load_state_dict(read_state(path))
