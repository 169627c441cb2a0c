"""Configs: files of settings, and fields set on the command line.

Settings are read in the commands only; what a command calls takes plain typed arguments.
"""

import difflib
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from labelgen.core import shipped
from labelgen.core.errors import UserError
from labelgen.core.files import at_home, read_text

_EXPANDED_LATER = ("data_cache", "compile_cache")
"""RUN keeps them as they were written: another machine has another home."""
IMAGENET = "imagenet"
"""labels.templates by the name of a set: the 80 that CLIP's authors wrote for ImageNet, which most published figures
average."""
LAST = (-1,)
"""encoder.layers where only the last one is taken."""


def encoder_settings(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Of config.encoder's fields what the features depend on, as JSON. The last layer alone goes without saying: DATA
    from before there was a choice is the same."""
    left_out = ["layers", "join"] if tuple(fields["layers"]) == LAST else []
    left_out += ["weights"] if fields["name"] in ("clip", "sam") else []
    return {name: list(value) if name == "layers" else value for name, value in fields.items() if name not in left_out}


Check = Callable[[Any], bool]
SOURCES = (
    *("folder", "black_and_white", "voc", "context", "cityscapes", "ade20k"),
    *("camvid", "coco_stuff", "coco", "coco_panoptic"),
)
"""Layouts of photos.root; beside them "tfds:NAME". labelgen/sources/registry.py opens each."""


def load_config(path: str, overrides: Sequence[str] = ()) -> ConfigDict:
    """The valid, locked config of a file with `get_config()`, with fields set by "train.steps=500" and the like.

    path: a file, or the name of a shipped config ("voc"); FILE:VARIANT for one that has several, whose get_config takes
    the variant's name.

    UserError for a file that is missing or does not run, for a field that configs/default.py does not have (with the
    names that come near), for a value of another type, and for whatever `validate` refuses.
    """
    config, default = _run(path), _run("default")
    known = dict(_fields(default))
    for field, value in _fields(config):
        if not _is_known(field, known):
            raise UserError(f"{path}: no field {field!r}{_near(field, known)}")
        if field in known and _kind(value) != _kind(known[field]):
            raise UserError(f"{path}: {field} = {value!r}, but {_kind(known[field])} is wanted, like {known[field]!r}")
    lost = [field for field in known if field not in dict(_fields(config))]
    if lost and not isinstance(known[lost[0]], ConfigDict):
        raise UserError(f"{path}: field {lost[0]!r} is missing; start from configs/default.py's get_config()")
    for override in overrides:
        _set(config, override)
    _expand_home(config)
    validate(config)
    return config.lock()


def _expand_home(config: ConfigDict) -> None:
    for name, value in list(config.items()):
        if isinstance(value, ConfigDict):
            _expand_home(value)
        elif name not in _EXPANDED_LATER and (there := at_home(value)) != value:
            with config.unlocked():
                config[name] = there


def _run(name: str) -> ConfigDict:
    """What `get_config()` of a Python file returns. `configs` is importable for it, wherever the file lies."""
    file, colon, variant = (name, "", "") if Path(name).is_file() else name.partition(":")
    path = shipped.config_file(file)
    if not path.is_file():
        raise UserError(
            f"{path}: no such config file; name a file, or one that ships: {', '.join(shipped.config_names())}"
        )
    scope: dict[str, Any] = {"__name__": path.stem, "__file__": str(path)}
    sys.path.append(str(shipped.HOME))
    try:
        exec(compile(read_text(path), str(path), "exec"), scope)
        known = scope.get("VARIANTS", ())
        if colon and variant not in known:
            raise UserError(f"{name}: its variants are {', '.join(known)}" if known else f"{name}: has no variants")
        config = scope["get_config"](variant) if colon else scope["get_config"]()
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{path}: does not give a config: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(shipped.HOME))
    if not isinstance(config, ConfigDict):
        raise UserError(f"{path}: get_config() returns {type(config).__name__}; a ConfigDict is wanted")
    return config


def _fields(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every field; an empty group counts as a field."""
    for name, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            yield from _fields(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _is_known(field: str, known: dict[str, Any]) -> bool:
    """A field of the defaults, or anything under a group that the defaults leave empty (splits and the like)."""
    parents = (field[: at.start()] for at in re.finditer(r"\.", field))
    return field in known or any(isinstance(known.get(parent), ConfigDict) for parent in parents)


def _near(field: str, known: dict[str, Any]) -> str:
    names = difflib.get_close_matches(field, known, 3, 0.5)
    names += [name for name in known if name.split(".")[-1] == field.split(".")[-1] and name not in names]
    return f"; did you mean {' or '.join(names[:3])}?" if names else "; configs/default.py lists every field"


def _kind(value: Any) -> str:
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list"}
    kinds |= {list: "a list", ConfigDict: "a group of fields"}
    return kinds.get(type(value), type(value).__name__)


def _set(config: ConfigDict, override: str) -> None:
    """Sets one field from `field=text`, the text read as the type that the field has."""
    field, equals, text = override.partition("=")
    known = dict(_fields(config))
    if not equals:
        raise UserError(f"--config.{field}: no value; write --config.{field}=VALUE")
    if field not in known:
        raise UserError(f"--config.{field}: no such field{_near(field, known)}")
    *groups, name = field.split(".")
    for group in groups:
        config = config[group]
    try:
        with config.unlocked():
            config[name] = _parse(text, known[field])
    except (ValueError, KeyError):
        raise UserError(f"--config.{field}={text}: {_kind(known[field])} is wanted, like {known[field]!r}") from None


def _parse(text: str, like: Any) -> Any:
    if isinstance(like, bool):
        return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    if isinstance(like, (tuple, list)):
        return tuple(_parse(part.strip(), like[0] if like else "") for part in text.split(",") if part.strip())
    if isinstance(like, (int, float, str)):
        return type(like)(text)
    raise ValueError(text)


def _whole(minimum: int) -> tuple[str, Check]:
    return f"a whole number, {minimum} or more", lambda value: value >= minimum


def _choice(*values: str) -> tuple[str, Check]:
    return f"one of {', '.join(values)}", lambda value: value in values


POSITIVE: tuple[str, Check] = "above 0", lambda value: value > 0
NOT_NEGATIVE: tuple[str, Check] = "0 or more", lambda value: value >= 0
SHARE: tuple[str, Check] = "between 0 and 1", lambda value: 0 <= value <= 1
DTYPE = _choice("float32", "bfloat16", "float16")
NAME: tuple[str, Check] = "letters, digits, - and _", lambda value: bool(re.fullmatch(r"[\w-]+", value))

_LIMITS: dict[str, tuple[str, Check]] = {
    "photos.source": ("a layout of configs/default.py", lambda value: value.startswith("tfds:") or value in SOURCES),
    "photos.ignore_index": NOT_NEGATIVE,
    "photos.max_pixels": _whole(1),
    "device": ("auto, cpu, mps, cuda or cuda:N", lambda value: bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value))),
    "dtype": _choice("auto", "float32", "bfloat16", "float16"),
    "encode.photos_per_shard": _whole(1),
    "encode.feature_dtype": DTYPE,
    "clip.short_side_px": _whole(1),
    "clip.window_px": _whole(1),
    "clip.stride_px": _whole(1),
    "clip.crop_scales": ("shares above 0, at most 1", lambda value: value and all(0 < v <= 1 for v in value)),
    "clip.variants": ("at least one dense variant", bool),
    "clip.batch_size": _whole(0),
    "sam.points_per_side": _whole(1),
    "sam.pred_iou_threshold": SHARE,
    "sam.stability_threshold": SHARE,
    "sam.nms_threshold": SHARE,
    "sam.batch_size": _whole(0),
    "encoder.layers": ("at least one layer, such as -1 for the last", bool),
    "encoder.join": _choice("concatenate", "mean"),
    "encoder.size_px": _whole(1),
    "encoder.height_px": _whole(0),
    "encoder.window_px": _whole(0),
    "encoder.stride_px": _whole(0),
    "labels.name": NAME,
    "labels.splits": ("at least one split", bool),
    "labels.calibration_photos": _whole(0),
    "labels.templates": (
        f"patterns with {{}} for the word, or {IMAGENET} alone",
        lambda value: tuple(value) == (IMAGENET,) or (value and all("{}" in v for v in value)),
    ),
    "presence.temperature": POSITIVE,
    "presence.dense_temperature": POSITIVE,
    "presence.threshold": SHARE,
    "presence.gate": NOT_NEGATIVE,
    "points.per_class": _whole(1),
    "masks.min_confidence": SHARE,
    "merge.min_confidence": SHARE,
    "eval.batch_size": _whole(1),
    "eval.refine_min_iou": SHARE,
    "eval.background_threshold": SHARE,
}


def validate(config: ConfigDict) -> None:
    """UserError, naming the field, its value and the fix, for the first value out of its range.

    Fields of the trainer are the trainer's to check.
    """
    values = dict(_fields(config))
    for field, (wanted, holds) in _LIMITS.items():
        if not holds(values[field]):
            raise UserError(f"{field} = {values[field]!r}; wanted is {wanted}: fix the config or set --config.{field}=")
    _check_variant(config.labels.variant, config.clip.variants)
    window, stride = config.encoder.window_px, config.encoder.stride_px
    if not min(window, 1) <= stride <= window:
        raise UserError(
            f"encoder.stride_px = {stride} with encoder.window_px = {window}; wanted is a stride above 0 and at most "
            "the window, such as half of it, or 0 for both: the whole photo in one pass"
        )
    for split, folders in config.photos.splits.items():
        if not NAME[1](split):
            raise UserError(f"photos.splits has a split {split!r}; its name may have {NAME[0]}")
        if not isinstance(folders, ConfigDict) or set(folders) != {"photos", "masks"}:
            raise UserError(f"photos.splits.{split}: wanted are `photos` (a folder) and `masks` (a folder, or empty)")


def _check_variant(variant: str, variants: Sequence[str]) -> None:
    """labels.variant is one of clip.variants, or two of them as "a+b"."""
    names = variant.split("+")
    if not set(names) <= set(variants):
        raise UserError(
            f"labels.variant = {variant!r} is not among clip.variants = {variants!r}; name one of these, or two as "
            "'a+b' for their mean, or add it there (and encode again)"
        )
    if len(names) > 2 or len(set(names)) < len(names):
        raise UserError(f"labels.variant = {variant!r}; wanted is one variant, or two different ones as 'a+b'")


def identity(config: ConfigDict) -> dict[str, Any]:
    """The settings that DATA depends on: not where photos and weights lie, nor what only changes the speed.

    Not dtype either, which may be `auto`: encoders.json has the one that was used, and `check_dtype` compares.
    """
    fields = config.to_dict()
    settings = {name: fields[name] for name in ("photos", "encode", "clip", "sam", "encoder")}
    settings["photos"].pop("root")
    for model in ("clip", "sam", "encoder"):
        settings[model].pop("batch_size", None)
        settings[model].pop("sha256")  # of the weights really used, encoders.json has the digests
    return settings | {"encoder": encoder_settings(settings["encoder"])}
