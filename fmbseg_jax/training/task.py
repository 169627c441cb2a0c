"""What one training is about: words, targets and rows of a DATA, the identity by which a RUN knows it again, and how
well the head says what it was not trained on, which is its loss on rows held out, by their free labels. No truth.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict
from numpy.typing import NDArray

from fmbseg_jax.runs import hosts
from fmbseg_jax.runs.checkpoint import refuse_other
from fmbseg_jax.runs.head import State
from fmbseg_jax.runs.run_folder import Run
from fmbseg_jax.runs.settings import FeedConfig, TrainConfig, by_batch, check_heads
from fmbseg_jax.training.batch import FedBatch
from fmbseg_jax.training.device_batches import place
from fmbseg_jax.training.feed import (
    Examples,
    Rows,
    Targets,
    class_mass,
    free_labels,
    held_out_batches,
    oracle_truth,
    rows_by_labels,
    rows_read,
    training_rows,
)
from fmbseg_jax.training.losses import class_weights
from fmbseg_jax.training.mesh import Layout
from fmbseg_jax.training.step import Outcome, Teacher
from labelgen.core.errors import UserError
from labelgen.core.files import digest, read_json, write_json
from labelgen.core.ontology import Ontology
from labelgen.data.dataset import Dataset

_ANY_TIME = ("log_every", "save_every", "resident_share")  # fields of train.* that a resumed run may change


@dataclass(frozen=True)
class Task:
    """Who teaches what on which rows."""

    ontology: Ontology
    prototypes: NDArray[np.float32]
    """[K, E] unit rows."""
    class_weights: NDArray[np.float32]
    """[C], from the labels of the rows trained on."""
    examples: Examples
    train_rows: Rows
    held_out_rows: Rows
    """Free labels too, or truth for the oracle; they choose the best checkpoint and are never trained on."""


def stage_rows(data: Dataset, settings: TrainConfig, places: Rows, stopped: Callable[[], bool]) -> bool:
    """Brings near what this host reads of a remote DATA; False when it was stopped before. All hosts must call it."""
    feed = settings.feed
    train_rows, held_out_rows = training_rows(data.count(feed.split), feed)
    targets = "truth" if feed.targets == "truth" else f"labels/{settings.labels}"
    rows = rows_read(train_rows, held_out_rows, feed, places)
    counted = np.concatenate([r[hosts.index() :: hosts.count()] for r in (train_rows, held_out_rows)])  # by class_mass
    done = data.stage(feed.split, ["features"], rows, stopped)
    done = done and data.stage(feed.split, [targets], np.union1d(rows, counted), stopped)
    return not hosts.any_of(not done)


def open_task(data: Dataset, settings: TrainConfig) -> Task:
    """Opens features and targets and counts the classes, once. UserError for what DATA lacks."""
    feed = settings.feed
    check_heads(settings.head, data.feature_width)
    ontology, prototypes = data.labels(settings.labels)
    classes = len(ontology.names)
    if not data.count(feed.split):
        raise UserError(f"{data.path}: split {feed.split!r} has no photos; see failures.jsonl there for the reasons")
    if feed.targets == "truth":
        targets = oracle_truth(data, feed.split, ontology.names, settings.truth)
    else:
        targets = free_labels(data, settings.labels, feed.split)
    train_rows, held_out_rows, mass = choose_rows(targets, data.count(feed.split), feed, classes)
    if not mass.any():
        raise UserError(
            f"{data.path}: no patch of split {feed.split!r} is labelled with any of {', '.join(ontology.names)}; "
            "lower presence.threshold or merge.min_confidence and label again"
        )
    weights = class_weights(mass, settings.loss.class_balance)
    examples = Examples(data, feed.split, targets)
    return Task(ontology, prototypes, weights, examples, train_rows, held_out_rows)


def choose_rows(targets: Targets, count: int, feed: FeedConfig, classes: int) -> tuple[Rows, Rows, NDArray[np.float64]]:
    """(rows to train on, rows held out, class_mass of the former). By photos with labels, which is said, where none of
    those drawn has any: a loss on nothing says nothing. All hosts must call it."""
    rows, held_out = training_rows(count, feed)
    mass = class_mass(targets, rows, classes)
    if not len(held_out) or (mass.any() and class_mass(targets, held_out, classes).any()):
        return rows, held_out, mass
    rows, held_out, labelled = rows_by_labels(targets, count, feed)
    chosen = f"{len(held_out)} of them held out" if len(held_out) else "none held out, the last checkpoint counts"
    print(f"{labelled} of {count} photos of split {feed.split!r} have labels: {chosen}", file=hosts.errors())
    return rows, held_out, class_mass(targets, rows, classes)


def run_facts(config: ConfigDict, settings: TrainConfig, data: Dataset, task: Task) -> dict[str, Any]:
    """What every checkpoint of the run carries besides arrays: config, ontology, data, and the run's identity."""
    return {
        "config": config.to_dict(),
        "ontology": task.ontology.to_json(),
        "data": {
            "feature_width": data.feature_width,
            "text_width": data.text_width,
            "grid_hw": list(data.grid_hw),
            "encoders": data.info["encoders"],
        },
        "identity": _identity(config, settings, data, task),
    }


def _identity(config: ConfigDict, settings: TrainConfig, data: Dataset, task: Task) -> dict[str, Any]:
    """Field -> value of all that a resumed run must share with the one before: other values are another run."""
    fields = config.train.to_dict() | by_batch(config)
    train = {f"train.{name}": value for name, value in fields.items() if name not in _ANY_TIME}
    return {
        **{f"head.{name}": value for name, value in config.head.to_dict().items()},
        **train,
        "words": ", ".join(task.ontology.words),
        "classes": ", ".join(task.ontology.names),
        **({"truth (eval.truth)": dict(settings.truth)} if settings.feed.targets == "truth" else {}),
        "labels (digest)": data.labels_info(settings.labels)["digest"],
        "prototypes (digest)": hashlib.sha256(task.prototypes.tobytes()).hexdigest(),
        "encoders (digest)": digest(data.info["encoders"]),
        "feature_width": data.feature_width,
        "photos": data.count(settings.feed.split),
    }


def keep_config(run: Run, facts: dict[str, Any]) -> None:
    """Writes RUN/config.json, or refuses (UserError) a RUN that has one of another training.

    UserError too when hosts differ in what they were told or read.
    """
    run.bring("config.json")
    path, name = run.path / "config.json", f"{run.name}/config.json"
    told = {**facts["config"], "distributed": "", "data_cache": ""}
    hosts.check_same(
        [facts["identity"], told], f"{run.name}: the hosts differ in config, words or DATA; start all with the same"
    )
    if path.exists():
        saved = read_json(path, "delete RUN to train anew")
        refuse_other(saved.get("identity", {}), facts["identity"], name)
    elif hosts.is_first():
        run.path.mkdir(parents=True, exist_ok=True)
        write_json(path, facts)
        run.send()
    hosts.barrier("config.json")


class HeldOut:
    """The loss on rows that are not trained on; None where there are none."""

    def __init__(
        self,
        task: Task,
        sums: Callable[[object, FedBatch, Teacher], Outcome],
        teacher: Teacher,
        layout: Layout,
        batch_size: int,
    ):
        self._task, self._sums, self._teacher = task, sums, teacher
        self._layout, self._batch_size = layout, batch_size

    def __call__(self, state: State) -> dict[str, float]:
        """{"held_out_loss", "held_out_agreement"} of the state, or nothing; the same on every host.

        On another number of devices a batch is added up in another order: equal to some 6 digits.
        """
        rows = self._task.held_out_rows
        if not len(rows):
            return {}
        total = np.zeros(4)
        for batch in held_out_batches(self._task.examples, rows, self._batch_size, self._layout.places):
            # Fetched one by one: no more than a batch of work is ever queued.
            placed = place(batch, self._layout.over_data)
            total += jax.device_get(self._sums(state.params, placed, self._teacher))
        loss, weight, hits, mass = total
        return {"held_out_loss": loss / max(weight, 1e-6), "held_out_agreement": hits / max(mass, 1e-6)}
