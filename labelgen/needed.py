"""The three models of a config and their weight files: what is there, what it weighs, what it may be used for.

Data flow: config -> Needed, which `labelgen.weights` fetches and `labelgen.budget` adds up.
"""

from pathlib import Path
from typing import NamedTuple

from ml_collections import ConfigDict

from labelgen import choose_encoder, clip_source, sam_files
from labelgen.weight_files import WeightFile, digest


class Needed(NamedTuple):
    """A model of the config and its file."""

    role: str
    name: str
    file: WeightFile

    def to_fetch(self) -> int:
        """Bytes that have still to come: of the parameters in float32; some files are stored smaller."""
        if self.file.there() or not self.file.parameters:
            return 0
        return 4 * self.file.parameters()


def needs(config: ConfigDict) -> list[Needed]:
    """The files of CLIP, SAM and the patch encoder, unless that is one of them. UserError for an unknown model."""
    folder, patches = config.weights_dir, choose_encoder.weight_file(config)
    return [
        Needed("CLIP", f"{config.clip.name} {config.clip.pretrained}", clip_source.weight_file(config.clip, folder)),
        Needed("SAM", config.sam.name, sam_files.weight_file(config.sam, folder)),
        *([Needed("encoder", config.encoder.name, patches)] if patches else []),
    ]


def entry(need: Needed) -> str:
    """What is told of one file, a line a fact."""
    file, path = need.file, need.file.there()
    lines = {
        "model": f"{need.role} {need.name}",
        "file": str(path or file.wanted) + ("" if path else "  MISSING"),
        "size": _size(need, path),
        "licence": file.licence,
        "source": file.source or "beside its model config",
    }
    if path is not None:
        lines["sha256"] = digest(path)[:16] + "..."
    return "\n".join(f"{name:8s} {text}" for name, text in lines.items())


def _size(need: Needed, path: Path | None) -> str:
    """Of the file that is there, else of its parameters; MB are 10^6 bytes."""
    if path is not None:
        return f"{path.stat().st_size / 1e6:.1f} MB"
    return f"about {need.to_fetch() / 1e6:.0f} MB" if need.file.parameters else "unknown"
