"""The official weight files of SAM and MobileSAM: which there are, and the one that a config means, checked.

Data flow: config + weights_dir -> a checked file -> load_sam (labelgen.sam).
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Protocol

import torch

from labelgen import weights
from labelgen.errors import UserError

META = "https://dl.fbaipublicfiles.com/segment_anything/"
MOBILE = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/"


class Release(NamedTuple):
    """An official weight file: its name, hex sha256 and the folder it is downloaded from."""

    file: str
    sha256: str
    folder: str

    @property
    def url(self) -> str:
        return self.folder + self.file


RELEASES = {
    "vit_h": Release("sam_vit_h_4b8939.pth", "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e", META),
    "vit_l": Release("sam_vit_l_0b3195.pth", "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622", META),
    "vit_b": Release("sam_vit_b_01ec64.pth", "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912", META),
    "mobile_sam": Release("mobile_sam.pt", "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f", MOBILE),
}
"""sam.name -> its file. The six digits in Meta's names begin the file's md5; the sha256 here are those that projects
which download the files check them against (micro-sam for one)."""


class Wanted(Protocol):
    """The fields of `config.sam` that say which file is meant."""

    name: str
    weights: str
    sha256: str


def find(config: Wanted, weights_dir: str | Path) -> Path:
    """The weight file of a model in RELEASES; one of official name is fetched where it is not there yet.

    UserError when it is another model's, when there is none, and when the digest is not sam.sha256, which for a file of
    official name is by default the official one.
    """
    release = RELEASES[config.name]
    _refuse_another(config, release)
    if config.weights != release.file:  # somebody's own training of that architecture
        return weights.find(weights_dir, config.weights, config.sha256, source=release.url)
    fetch = _fetcher(config, release, Path(weights_dir))
    path = weights.find(weights_dir, release.file, config.sha256, fetch, release.url)
    if not config.sha256 and (found := weights.digest(path)) != release.sha256:
        raise UserError(
            f"{path}: is not the official file: sha256 is {found}, not {release.sha256}; fetch it again from "
            f"{release.url}, or give weights of your own another name"
        )
    return path


def _refuse_another(config: Wanted, release: Release) -> None:
    other = next((name for name, known in RELEASES.items() if known.file == config.weights), config.name)
    if other != config.name:
        raise UserError(
            f"sam.weights = {config.weights!r} is the file of {other}, but sam.name = {config.name!r}; "
            f"set sam.weights = {release.file!r}, or sam.name = {other!r}"
        )


def _fetcher(config: Wanted, release: Release, folder: Path) -> Callable[[], Path]:
    def fetch() -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / release.file
        # with the digest, a download that was cut off is not left behind under the file's name
        torch.hub.download_url_to_file(release.url, str(path), config.sha256 or release.sha256)
        return path

    return fetch
