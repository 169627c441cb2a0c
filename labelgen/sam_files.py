"""The official weight files of SAM and MobileSAM: which there are, and the one that a config means, checked.

Data flow: config + weights_dir -> a checked file -> load_sam (labelgen.sam).
"""

import os
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from labelgen import compute, mobile_sam, sam, weight_files
from labelgen.core.errors import UserError
from labelgen.libraries import sam_model_registry
from labelgen.weight_files import WeightFile

NEEDED = ("image_encoder", "prompt_encoder", "mask_decoder", "pixel_mean", "pixel_std")
"""What a model config must have."""

META = "https://dl.fbaipublicfiles.com/segment_anything/"
MOBILE = "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/"


class Release(NamedTuple):
    """An official weight file: its name, hex sha256 and the folder it is downloaded from."""

    file: str
    sha256: str
    folder: str

    @property
    def url(self) -> str:
        """SAM_ENDPOINT names another server that has the files, as HF_ENDPOINT does for the hub's."""
        folder = os.environ.get("SAM_ENDPOINT", self.folder)
        return f"{folder.rstrip('/')}/{self.file}"


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


def weight_file(config: Wanted, weights_dir: str | Path) -> WeightFile:
    """The file of config.sam: an official one, somebody's own training of such a model, or that of a model config.

    UserError for a name that there is not, and for the official file of another model.
    """
    if config.name.endswith(".json"):
        fields = weight_files.read_config(weights_dir, config.name, NEEDED)
        return weight_files.described(weights_dir, config.weights, config.sha256, fields)
    if config.name not in RELEASES:
        raise UserError(
            f"sam.name = {config.name!r}; choose one of {', '.join(RELEASES)}, or name a *.json in weights_dir"
        )
    release, path = RELEASES[config.name], Path(weights_dir, config.weights)
    _refuse_another(config, release)
    build = mobile_sam.build if config.name == "mobile_sam" else sam_model_registry[config.name]
    file = WeightFile(
        path.parent,
        [path.name],
        config.sha256,
        source=release.url,
        licence="Apache-2.0",
        parameters=partial(compute.parameters, build),
    )
    if config.weights != release.file:  # somebody's own training of that architecture
        return file
    fetch = partial(sam.from_url, release.url, path, config.sha256 or release.sha256)
    return file._replace(fetch=fetch, official=release.sha256)


def _refuse_another(config: Wanted, release: Release) -> None:
    other = next((name for name, known in RELEASES.items() if known.file == config.weights), config.name)
    if other != config.name:
        raise UserError(
            f"sam.weights = {config.weights!r} is the file of {other}, but sam.name = {config.name!r}; "
            f"set sam.weights = {release.file!r}, or sam.name = {other!r}"
        )
