"""Weight files: found in a local folder first, else fetched by the library's own loader; digests; what must fit.

Data flow: config + weights_dir -> a checked file -> a model of the library's own class (clip, sam, dinov2).
"""

import hashlib
import json
import os
import pickle
import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from labelgen.core import shipped
from labelgen.core.errors import UserError

UNKNOWN_LICENCE = "see its model card"


def digest(path: str | Path) -> str:
    """Hex sha256 of a file."""
    state = os.stat(path)
    return _digest(str(path), state.st_mtime_ns, state.st_size)


@lru_cache(maxsize=16)
def _digest(path: str, changed: int, size: int) -> str:
    """Gigabytes take seconds, and both who checks a file and who records it ask."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class WeightFile:
    """One weight file: what it is called in weights_dir and what it must be. Those of a provider, who has it to fetch,
    are its subclasses (clip.OpenClipFile, sam.ReleaseFile, trunks.TimmFile).

    folder: weights_dir; names: what it may be called there, the first is how a person should save it; sha256: checked
    when given; licence: as its publisher states it; source: where a person gets it, empty: nowhere but there; official:
    sha256 of the file that `source` has, where it is known.
    """

    folder: Path
    names: Sequence[str]
    sha256: str = ""
    licence: str = UNKNOWN_LICENCE
    source: str = ""
    official: str = ""

    def fetch(self) -> Path | None:
        """The provider's own download, with whatever it raises; None without a provider."""
        return None

    def cached(self) -> Path | None:
        """Where an earlier fetch left it outside of weights_dir."""
        return None

    def parameters(self) -> int | None:
        """How many float32 numbers its model has, without any memory for them; None: not known before it is there."""
        return None

    @property
    def saved_as(self) -> Path:
        """Where a person should save it."""
        return self.folder / self.names[0]

    def by_hand(self) -> str:
        """What a person can do."""
        return f"download it from {self.source} and save it as {self.saved_as}"

    def local(self) -> Path | None:
        """The first of the names in the folder, else what an earlier fetch left."""
        paths = (shipped.find(self.folder / name) for name in self.names)
        return next((path for path in paths if path.is_file()), None) or self.cached()


def find(file: WeightFile) -> Path:
    """The file where it is, else what `fetch` brings; its digest checked where one is given.

    UserError when there is no file, saying what to fetch from where and what to name it, or when its digest is another
    one.
    """
    path = file.local() or _fetched(file)
    if file.official and not file.sha256 and (sha256 := digest(path)) != file.official:
        raise UserError(
            f"{path}: is not the official file: sha256 is {sha256}, not {file.official}; fetch it again from "
            f"{file.source}, or give weights of your own another name"
        )
    if file.sha256 and (sha256 := digest(path)) != file.sha256:
        raise UserError(
            f"{path}: sha256 is {sha256}, but {file.sha256} is wanted; fetch the file again or fix the digest"
        )
    return path


def _fetched(file: WeightFile) -> Path:
    """What `fetch` brings; whatever stops it becomes one line that says how to do without."""
    reason = ""
    try:
        if path := file.fetch():
            return path
    except UserError as error:
        reason = f" ({error})"
    except Exception as error:  # each library's downloader raises its own
        reason = f" ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    fix = f"{file.by_hand()}; `python -m labelgen.weights` with the same --config lists all that is needed"
    if not file.source:
        fix = "correct the name or weights_dir"
    raise UserError(f"{file.saved_as}: no such weight file, and it could not be fetched{reason}; {fix}")


def described(folder: str | Path, name: str, sha256: str, config: Mapping[str, Any]) -> WeightFile:
    """The file beside a model config, which may state its `sha256` and `licence`."""
    return WeightFile(Path(folder), [name], sha256 or config.get("sha256", ""), config.get("licence", UNKNOWN_LICENCE))


def in_hub_cache(repository: str, names: Sequence[str]) -> Path | None:
    """The first of these files of a Hugging Face repository that an earlier download left."""
    paths = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def check_hub_digest(path: Path) -> None:
    """UserError when a file in the hub's cache is another than the hub said: it names large files by their sha256."""
    blob = path.resolve()
    if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and digest(path) != blob.name:
        raise UserError(
            f"{path}: sha256 is {digest(path)}, but the hub says {blob.name}; it was damaged: delete {blob} and run "
            "the same command again"
        )


def check_whole(path: Path) -> None:
    """UserError when the file is torn, or no weight file at all; its tensors are not read."""
    with loading(path, path.name):
        if path.suffix == ".safetensors":
            with safe_open(path, "pt"):
                return
        if not zipfile.is_zipfile(path) and _first(path) != b"\x80":  # before PyTorch 1.6: a bare pickle
            raise EOFError("neither a PyTorch nor a safetensors file, or torn")


def _first(path: Path) -> bytes:
    with open(path, "rb") as file:
        return file.read(1)


def read_config(weights_dir: str | Path, name: str, needed: Sequence[str]) -> dict[str, Any]:
    """A model config (*.json in weights_dir) that says how the library builds a model; UserError unless it has all of
    `needed`."""
    path = shipped.find(Path(weights_dir, name))
    try:
        config = json.loads(path.read_text(encoding="utf-8-sig"))
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
