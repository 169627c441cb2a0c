"""The trainer's settings: typed, checked once, read from the ConfigDict in the commands only."""

from dataclasses import dataclass
from typing import Any

from ml_collections import ConfigDict

from fmbseg_jax.runs import hosts
from labelgen.core.errors import UserError
from labelgen.core.remote import is_remote


@dataclass(frozen=True)
class HeadConfig:
    """What the head is made of besides the widths of its input (D) and output (E)."""

    blocks: int
    heads: int
    hidden: int
    dtype: str


@dataclass(frozen=True)
class LossConfig:
    """What a step's loss depends on besides parameters, batch and prototypes."""

    loss: str
    soft_targets: bool
    class_balance: float
    temperature: float
    learn_temperature: bool
    patches_per_photo: int
    supcon_samples: int
    supcon_prototype_weight: float


@dataclass(frozen=True)
class OptimConfig:
    """What the optimiser depends on."""

    steps: int
    learning_rate: float
    warmup_steps: int
    weight_decay: float
    clip_norm: float


@dataclass(frozen=True)
class FeedConfig:
    """What the batches depend on besides DATA."""

    split: str
    targets: str
    batch_size: int
    virtual_shards: int
    holdout: float
    seed: int
    resident_share: float
    photos: int = 0
    """0: all that are not held out."""


@dataclass(frozen=True)
class HostsConfig:
    """How the processes of a run find each other (fmbseg_jax.runs.hosts.start)."""

    distributed: str
    distributed_start_s: int
    distributed_silent_s: int


@dataclass(frozen=True)
class TrainConfig:
    """Everything of the training command, checked."""

    head: HeadConfig
    loss: LossConfig
    optim: OptimConfig
    feed: FeedConfig
    hosts: HostsConfig
    labels: str
    truth: dict[str, str]
    """eval.truth, for the oracle alone."""
    mesh_data: int
    mesh_model: int
    log_every: int
    save_every: int
    compile_cache: str


def train_config(config: ConfigDict) -> TrainConfig:
    """The typed settings of a ConfigDict. UserError names the first field that is out of range, its value, the fix."""
    train = config.train.copy_and_resolve_references()
    train.update(by_batch(config))
    _check(config)
    return TrainConfig(
        head=head_config(config),
        loss=LossConfig(**{name: train[name] for name in LossConfig.__annotations__}),
        optim=OptimConfig(**{name: train[name] for name in OptimConfig.__annotations__}),
        feed=FeedConfig(**{name: train[name] for name in FeedConfig.__annotations__}),
        hosts=hosts_config(config),
        labels=config.labels.name,
        truth=config.eval.truth.to_dict(),
        mesh_data=config.mesh.data,
        mesh_model=config.mesh.model,
        log_every=train.log_every,
        save_every=train.save_every,
        compile_cache=config.compile_cache,
    )


def by_batch(config: ConfigDict) -> dict[str, int]:
    """The fields of `train` whose 0 leaves them to the batch: the same on any number of devices.

    Half as many virtual shards as photos, or the most below that which divide a batch; 1,024 patches to be contrasted
    with, or 4 of each photo where that is more.
    """
    train = config.train
    halves = [count for count in range(1, train.batch_size // 2 + 1) if train.batch_size % count == 0]
    return {
        "virtual_shards": train.virtual_shards or max(halves, default=1),
        "supcon_samples": train.supcon_samples or max(1024, 4 * train.batch_size),
    }


def hosts_config(config: ConfigDict) -> HostsConfig:
    """The fields `distributed*`. UserError names the first that is out of range."""
    settings = HostsConfig(**{name: config[name] for name in HostsConfig.__annotations__})
    for field, low in (("distributed_start_s", 1), ("distributed_silent_s", 10)):
        if config[field] < low:
            raise UserError(f"{field}={config[field]} is too small; set it to {low} or more")
    hosts.check(settings.distributed)
    return settings


def head_config(config: ConfigDict) -> HeadConfig:
    """The fields `head.*`."""
    return HeadConfig(**{name: config.head[name] for name in HeadConfig.__annotations__})


def check_heads(head: HeadConfig, feature_width: int) -> None:
    """UserError unless the attention heads divide the features' width."""
    if head.blocks and feature_width % head.heads:
        raise UserError(
            f"head.heads={head.heads} does not divide the features' width {feature_width}; set it to a divisor"
        )


_CHOICES = {
    "head.dtype": ("float32", "bfloat16"),
    "train.targets": ("labels", "truth"),
    "train.loss": ("prototype_ce", "t_supcon"),
}
_AT_LEAST = {
    "head.blocks": 0,
    "head.heads": 1,
    "head.hidden": 0,
    "mesh.model": 1,
    "train.patches_per_photo": 0,
    "train.photos": 0,
    "train.steps": 1,
    "train.warmup_steps": 0,
    "train.weight_decay": 0,
    "train.class_balance": 0,
    "train.supcon_prototype_weight": 0,
    "train.virtual_shards": 0,
    "train.supcon_samples": 0,
    "train.batch_size": 1,
    "train.log_every": 1,
    "train.save_every": 1,
    "train.seed": 0,
}
_ABOVE_ZERO = ("train.temperature", "train.learning_rate", "train.clip_norm")


def _check(config: ConfigDict) -> None:
    for field, choices in _CHOICES.items():
        if _value(config, field) not in choices:
            raise UserError(f"{field}={_value(config, field)!r} is none of {', '.join(choices)}; choose one")
    for field, low in _AT_LEAST.items():
        if not _value(config, field) >= low:
            raise UserError(f"{field}={_value(config, field)} is too small; set it to {low} or more")
    for field in _ABOVE_ZERO:
        if not _value(config, field) > 0:
            raise UserError(f"{field}={_value(config, field)} must be above 0; set it to what configs/default.py has")
    train = config.train
    if train.warmup_steps >= train.steps:
        raise UserError(
            f"train.warmup_steps={train.warmup_steps} leaves nothing of train.steps={train.steps}; set it lower"
        )
    if train.virtual_shards and train.batch_size % train.virtual_shards:
        raise UserError(
            f"train.batch_size={train.batch_size} is no multiple of train.virtual_shards={train.virtual_shards}; "
            "set one of the two so that it is"
        )
    if train.loss == "t_supcon" and 0 < train.supcon_samples < train.batch_size:
        raise UserError(
            f"train.supcon_samples={train.supcon_samples} is less than one patch for each of the "
            f"train.batch_size={train.batch_size} photos; set it to that or more"
        )
    if not 0 <= train.resident_share <= 1:
        raise UserError(
            f"train.resident_share={train.resident_share} is no share of a device's memory; set it to 0 ... 1"
        )
    if is_remote(config.compile_cache):
        raise UserError(
            f"compile_cache={config.compile_cache!r} is a url; set it to the name of a folder, which is kept in RUN "
            "and goes to the url of RUN with it, or to '' for none"
        )
    if not 0 <= train.holdout < 1:
        raise UserError(f"train.holdout={train.holdout} is no share of the photos; set it to 0 or more and below 1")


def _value(config: ConfigDict, field: str) -> Any:
    group, name = field.split(".")
    return config[group][name]
