"""A small data set as tfds prepares it: `minis`, with features of all kinds that masks may have."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from labelgen.data.tfrecord import frame

SPLITS = {"train": 7, "validation": 3}
BUILDER = """
import numpy as np
import tensorflow_datasets as tfds
from tests.worlds.tfds import SPLITS, png, row


class Builder(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.2.0")

    def _info(self):
        image = tfds.features.Image
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({
            "annotation": tfds.features.LabeledImage(labels=["sky", "sea", "land"], encoding_format="png"),
            "colours": image(encoding_format="png"),
            "height": tfds.features.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
            "image": image(encoding_format="png"),
            "numbered": tfds.features.LabeledImage(labels=3, encoding_format="png"),
            "plain": image(encoding_format="png"),
            "title": tfds.features.Text(),
        }))

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split):
        for i in range(SPLITS[split]):
            yield i, row(split, i)
"""


def png(pixels: np.ndarray) -> io.BytesIO:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


def pixels(split: str, i: int) -> tuple[np.ndarray, np.ndarray]:
    """RGB and class indices of a photo: its number in the first pixel, size by its number."""
    rng = np.random.default_rng([len(split), i])
    rgb = rng.integers(0, 256, (4 + i, 6, 3), np.uint8)
    return rgb, rng.integers(0, 3, (4 + i, 6), np.uint8)


def row(split: str, i: int) -> dict[str, Any]:
    rgb, classes = pixels(split, i)
    grey = np.repeat(classes[..., None], 3, -1)
    other = {"colours": png(rgb), "height": png(classes.astype(np.uint16) * 400), "title": "the same"}
    return {"image": png(rgb), "annotation": png(classes), "numbered": png(classes), "plain": png(grey)} | other


def rewrite(data_dir: Path, to: Path, shards: tuple[int, ...] = (3, 4)) -> None:
    """The same records as TFRecord, `train` in two shards; TensorFlow would be needed to have tfds write it."""
    import tensorflow_datasets as tfds

    old, new = data_dir / "minis/1.2.0", to / "minis/1.2.0"
    new.mkdir(parents=True)
    for name in ("features.json", "annotation.labels.txt"):
        (new / name).write_bytes((old / name).read_bytes())
    info = json.loads((old / "dataset_info.json").read_text())
    info["fileFormat"] = "tfrecord"
    builder = tfds.builder_from_directory(str(old))
    for split in info["splits"]:
        name, counts = split["name"], shards if split["name"] == "train" else (3,)
        raw = builder.as_data_source(name, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        split["shardLengths"] = [str(count) for count in counts]
        for shard, count in enumerate(counts):
            records = [frame(raw[i]) for i in range(sum(counts[:shard]), sum(counts[:shard]) + count)]
            file = new / f"minis-{name}.tfrecord-{shard:05d}-of-{len(counts):05d}"
            file.write_bytes(b"".join(records))
    (new / "dataset_info.json").write_text(json.dumps(info))
