"""A RUN as the folder that is put on a hub, or given away: safetensors and JSON alone, nothing that is executed.

`python -m fmbseg_jax.export --to=hub-folder` writes it (docs/export.md), `restore_run` reads it, at hf://OWNER/NAME by
huggingface_hub, or here:

    head.safetensors    the head's parameters by dotted name, prototypes [K, E], dense_map [D + 1, E] where there is one
    run.json            words, settings without this machine's paths, encoders with digests, and the sha256 of the first

Of such a folder these two files alone are fetched and read: no pickle, no compiled function, no code.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load

from labelgen.core.errors import UserError
from labelgen.core.files import read_json

SCHEME = "hf://"
ARRAYS, ABOUT = "head.safetensors", "run.json"
FORMAT = 1
_WORDS = ("prototypes", "dense_map")
_FIX = "write it again with fmbseg_jax.export --to=hub-folder"
_PATHS = ("ontology", "data_cache", "compile_cache", "photos.root", "photos.splits", "eval.words")
"""Settings that name places on the machine that trained."""


class Published(NamedTuple):
    """What a folder holds, checked to be whole."""

    about: dict[str, Any]
    """run.json."""
    params: dict[str, Any]
    """The head's parameters, a tree of float32 arrays."""
    prototypes: NDArray[np.float32]
    """[K, E]."""
    dense_map: NDArray[np.float32] | None
    """[D + 1, E]."""


def is_published(workdir: object) -> bool:
    """Whether this is hf://…, or a folder here that was written for a hub."""
    text = str(workdir)
    if text.startswith(SCHEME):
        return True
    return "://" not in text and (Path(text) / ABOUT).is_file() and not (Path(text) / "checkpoints").exists()


def read_published(workdir: str | Path) -> Published:
    """UserError where it cannot be had, is of another kind, or its files do not belong together."""
    files = _fetched(str(workdir)) if str(workdir).startswith(SCHEME) else _here(Path(workdir))
    about = read_json(files[ABOUT], _FIX)
    data = files[ARRAYS].read_bytes()
    if about.get("format") != FORMAT:
        raise UserError(f"{workdir}: {ABOUT} has format {about.get('format')!r}, this version reads {FORMAT}; {_FIX}")
    if hashlib.sha256(data).hexdigest() != about.get("sha256"):
        raise UserError(f"{workdir}: {ARRAYS} is not the file that {ABOUT} was written with; {_FIX}, and send both")
    try:
        arrays = load(data)
    except SafetensorError as error:
        raise UserError(f"{workdir}: {ARRAYS} is broken ({error}); {_FIX}") from None
    about["config"] = without_paths(about["config"])
    params = {name: array for name, array in arrays.items() if name not in _WORDS}
    return Published(about, tree(params), arrays["prototypes"], arrays.get("dense_map"))


def _here(folder: Path) -> dict[str, Path]:
    missing = [name for name in (ABOUT, ARRAYS) if not (folder / name).is_file()]
    if missing:
        raise UserError(f"{folder}: has no {missing[0]}; {_FIX}")
    return {name: folder / name for name in (ABOUT, ARRAYS)}


def _fetched(url: str) -> dict[str, Path]:
    """The two files in huggingface_hub's cache, by its own client; HF_ENDPOINT and HF_HUB_OFFLINE are its own."""
    place = re.fullmatch(r"hf://([\w.-]+/[\w.-]+)(?:@([^/]+))?(?:/(.+?))?/?", url)
    if place is None:
        raise UserError(f"{url}: not hf://OWNER/NAME, hf://OWNER/NAME@REVISION or hf://OWNER/NAME/FOLDER")
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import EntryNotFoundError, RepositoryNotFoundError, RevisionNotFoundError
    except ModuleNotFoundError:
        raise UserError(f"{url}: huggingface_hub is not installed; pip install 'fmbseg-jax[hub]'") from None
    repository, revision, folder = place.groups()
    try:
        found = {
            name: hf_hub_download(repository, name, subfolder=folder, revision=revision) for name in (ABOUT, ARRAYS)
        }
    except RepositoryNotFoundError:
        raise UserError(f"{url}: no such repository, or it is private: run `hf auth login`, or fix the name") from None
    except RevisionNotFoundError:
        raise UserError(f"{url}: no revision {revision!r} there; leave it out for the newest") from None
    except EntryNotFoundError as error:
        said = str(error).strip().splitlines()[0]
        raise UserError(f"{url}: no {ABOUT} and {ARRAYS} there, or no network ({said}); {_FIX}") from None
    except Exception as error:  # of many kinds: networks, disks, names
        raise UserError(f"{url}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}") from error
    return {name: Path(path) for name, path in found.items()}


def dotted(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a tree by dotted name: {"project": {"kernel": x}} has project.kernel."""
    for name, value in params.items():
        if isinstance(value, Mapping):
            yield from dotted(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def tree(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Any]:
    """The inverse of `dotted`."""
    params: dict[str, Any] = {}
    for name, array in arrays.items():
        *above, last = name.split(".")
        place = params
        for each in above:
            place = place.setdefault(each, {})
        place[last] = array
    return params


def about_run(meta: Mapping[str, Any], arrays: bytes) -> bytes:
    """run.json; meta: step, temperature, config, ontology, data; arrays: the content of head.safetensors."""
    config = without_paths(json.loads(json.dumps(meta["config"])))
    fields = {"format": FORMAT, **meta, "config": config, "sha256": hashlib.sha256(arrays).hexdigest()}
    return (json.dumps(fields, indent=1, sort_keys=True) + "\n").encode()


def without_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Settings as JSON, those that name a place on some machine empty, weights_dir as by default."""

    def walk(fields: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
        for name, value in fields.items():
            if prefix + name in _PATHS:
                yield name, {} if isinstance(value, dict) else ""
            elif isinstance(value, dict):
                yield name, dict(walk(value, f"{prefix}{name}."))
            elif isinstance(value, str) and (value.startswith(("/", "~")) or "://" in value):
                yield name, ""
            else:
                yield name, value

    return {**dict(walk(config, "")), "weights_dir": "weights"}
