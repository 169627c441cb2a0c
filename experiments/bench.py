"""What all claims work on: the shipped config, a DATA of their own over the user's, and a folder for everything.

The user's DATA is not touched: OUT/data is a folder of links to it, in which labels of other words find a place. Truth
goes by class names there, also where the source has none but the lines of the words, so that other words may be asked.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from labelgen.core.config import load_config
from labelgen.core.errors import UserError
from labelgen.core.files import digest, read_json, write_json
from labelgen.core.ontology import Ontology, parse_words, read_words
from labelgen.core.progress import StageTimes
from labelgen.data.dataset import Dataset, Labels
from labelgen.data.manifest import claim
from labelgen.stages import labelling
from labelgen.stages.engine import LocalEngine

SETTINGS = ("labels", "presence", "points", "masks", "merge", "head", "train", "eval")
"""Groups of the config that what lies in OUT depends on."""
Fields = Mapping[str, Any]
"""Overrides of the config: "train.temperature" -> .2 and the like."""


@dataclass(frozen=True)
class Bench:
    """One `python -m experiments.claims`."""

    config_file: str
    overrides: tuple[str, ...]
    out: Path
    seeds: int
    times: StageTimes

    @cached_property
    def config(self) -> ConfigDict:
        """The shipped config, with what the command line sets."""
        return self.with_fields({})

    def with_fields(self, fields: Fields) -> ConfigDict:
        """The shipped config with some fields changed."""
        return load_config(self.config_file, self.said(fields))

    def said(self, fields: Fields) -> list[str]:
        """The overrides of a row as on a command line, after the user's own."""
        return [*self.overrides, *(f"{name}={text(value)}" for name, value in fields.items())]

    @property
    def data_path(self) -> Path:
        """The claims' own DATA."""
        return self.out / "data"

    @property
    def data(self) -> Dataset:
        """The claims' own DATA, opened."""
        return Dataset.open(self.data_path)

    @cached_property
    def words(self) -> Labels:
        """The shipped words and prototypes."""
        return self.data.labels(self.config.labels.name)

    @property
    def split(self) -> str:
        """The split that claims are judged on: the first of eval.splits."""
        return str(self.config.eval.splits[0])

    @property
    def fingerprint(self) -> str:
        """Changes with whatever a finished claim depends on besides the code."""
        known = self.config.to_dict() | {"photos": {}, "seeds": self.seeds}
        labels = self.data.labels_info(self.config.labels.name)["digest"]
        return digest([json.loads(json.dumps(known, default=list)), labels, self.data.info["encoders"]])


def text(value: Any) -> str:
    """A field's value as the command line takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(text, value)) if isinstance(value, (tuple, list)) else str(value)


def open_bench(config_file: str, overrides: list[str], source: str, out: Path, seeds: int) -> Bench:
    """Makes OUT and OUT/data. UserError where DATA is incomplete, lacks truth, or OUT is of another DATA."""
    bench = Bench(config_file, tuple(overrides), out, seeds, StageTimes())
    data = Dataset.open(source)
    words, _ = data.labels(bench.config.labels.name)
    missing = [split for split in bench.config.eval.splits if not data.has_truth(split)]
    if missing or not bench.config.eval.splits:
        raise UserError(
            f"{source}: claims need truth for eval.splits, which {', '.join(missing) or 'is empty'}"
            f"{' has not' if missing else ''}; set photos.splits.SPLIT.masks and encode again"
        )
    link(data, bench.data_path, words)
    claim(out / "config.json", settings(bench), str(out), "take another --out")
    return bench


def settings(bench: Bench) -> dict[str, Any]:
    """What runs, labels and counts in OUT were made with, whatever a claim changes besides."""
    fields = bench.config.to_dict()
    known = {name: fields[name] for name in SETTINGS}
    for name, field in (("train", "log_every"), ("train", "resident_share"), ("eval", "batch_size")):
        known[name].pop(field)
    return known | {"labels (digest)": bench.data.labels_info(bench.config.labels.name)["digest"]}


def link(source: Dataset, folder: Path, words: Ontology) -> None:
    """A DATA of links to another; truth's classes have names there."""
    info = json.loads(json.dumps(source.info))
    for fields in info["splits"].values():
        if fields["truth"] and fields["truth_classes"] is None:
            fields["truth_classes"] = list(words.names)
    info_file = folder / "dataset.json"
    if info_file.exists():
        if read_json(info_file, f"delete {folder}") != info:
            raise UserError(f"{folder}: is of another DATA than {source.path}; take another --out")
        return
    for name in ("features", "evidence", "truth", "labels", "config.json", "encoders.json"):
        _link(source.path / name, folder / name)
    write_json(info_file, info)


def _link(target: Path, place: Path) -> None:
    """Files alone are links: what is made anew lies in folders of its own."""
    for file in [target] if target.is_file() else sorted(target.rglob("*")):
        if file.is_file():
            new = place / file.relative_to(target) if target.is_dir() else place
            new.parent.mkdir(parents=True, exist_ok=True)
            new.unlink(missing_ok=True)
            new.symlink_to(file.resolve())


def label(bench: Bench, name: str, lines: list[str], fields: Fields | None = None) -> Labels:
    """labels/NAME of the claims' DATA for a list of words, made once. lines: as in a file of words."""
    file = bench.out / "words" / f"{name}.txt"
    file.parent.mkdir(exist_ok=True)
    file.write_text("\n".join(lines) + "\n")
    config = bench.with_fields({"labels.name": name, "ontology": str(file), **(fields or {})})
    with config.unlocked():
        config.eval.ontologies = ConfigDict()
    with bench.times("label"):
        work = labelling.LabelStage(config, bench.data_path, read_words(file)).begin(bench.times)
        LocalEngine().run(work, work.shards)
        work.complete()
    return bench.data.labels(name)


def embed(bench: Bench, name: str, lines: list[str]) -> Labels:
    """Words that only evaluation asks, with their embeddings [K, E], which are kept in OUT/words."""
    words = parse_words(lines, name)
    file = bench.out / "words" / f"{name}-{words.digest[:12]}.npy"
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        with bench.times("embed words"):
            sha256 = bench.data.info["encoders"]["clip"]["sha256"]
            [prototypes] = labelling.embed_words(bench.config, [words], sha256)
        np.save(file, prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True))
    return Labels(words, np.load(file))


def word_lines(ontology: Ontology) -> dict[str, list[str]]:
    """Class -> its words."""
    owner = np.asarray(ontology.word_class)
    return {name: [ontology.words[i] for i in np.flatnonzero(owner == c)] for c, name in enumerate(ontology.names)}


def lines_of(words: Mapping[str, list[str]]) -> list[str]:
    """A file of words of `word_lines`."""
    return [f"{name}: {', '.join(its)}" for name, its in words.items()]


def once(path: Path, make: Callable[[], Any]) -> Any:
    """The fields of a JSON file, made where it is not there."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, make())
    return json.loads(path.read_text())
