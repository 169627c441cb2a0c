"""A stage of labelling, and who does its shards: this process, one after the other, or a cluster's nodes.

A Stage is what is to be done, and can be sent to another machine (labelgen.stages.cluster). Begun on a machine it is a
Work: the photos or evidence are looked through, the folder is claimed, and any of its shards can be done. An Engine has
them done; whoever finds the last one finished completes the stage.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from ml_collections import ConfigDict

from labelgen.core.progress import Progress, StageTimes
from labelgen.data.shards import Shard
from labelgen.data.tfrecord import ShardBusyError


class Stage(Protocol):
    """What is to be done: a dataclass that can be pickled."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str:
        """What progress lines call it: encode, label, features."""

    @property
    def config(self) -> ConfigDict: ...

    @property
    def data(self) -> Path:
        """The folder of DATA that is written."""

    def begin(self, times: StageTimes) -> "Work":
        """UserError when the folder is another config's, or what the stage reads is not there."""


class Work(Protocol):
    """A stage begun on this machine."""

    @property
    def stage(self) -> Stage: ...

    @property
    def shards(self) -> Sequence[Shard]:
        """All of the stage's, whoever does them."""

    def unfinished(self, shards: Sequence[Shard]) -> list[Shard]:
        """Those of `shards` that are not finished."""

    def open(self, shards: Sequence[Shard]) -> None:
        """Opens what these shards need, the models above all."""

    def do(self, shard: Shard, progress: Progress, spare: bool = False) -> None:
        """Finishes a shard. ShardBusyError when another process of this machine has it, unless `spare`: then in files
        of its own, beside it."""

    def complete(self) -> str:
        """Writes the stage's last files when every shard of every worker is finished; the line that says what there
        is."""


class Engine(Protocol):
    """Who does shards."""

    def run(self, work: Work, shards: Sequence[Shard]) -> None:
        """Has those of `shards` done that are not finished."""


class LocalEngine:
    """This process does them. A shard that another process has is left to it."""

    def run(self, work: Work, shards: Sequence[Shard]) -> None:
        """See Engine."""
        unfinished = work.unfinished(shards)
        if not unfinished:
            return
        work.open(unfinished)
        progress = Progress(sum(shard.stop - shard.start for shard in unfinished), "photos", work.stage.name)
        for shard in unfinished:
            try:
                work.do(shard, progress)
            except ShardBusyError as busy:  # whoever has it finishes it, and the stage if it is the last
                progress.note(f"left to its owner: {busy}")
        progress.close()
