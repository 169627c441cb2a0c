"""Settings that the batch decides: the same on any number of devices, for any batch."""

import pytest

from fmbseg_jax.runs.settings import by_batch, train_config
from labelgen.core.config import load_config


@pytest.mark.parametrize(
    ("batch", "shards", "samples"), [(1, 1, 1024), (7, 1, 1024), (32, 16, 1024), (96, 48, 1024), (2048, 1024, 8192)]
)
def test_what_is_left_to_the_batch(batch: int, shards: int, samples: int) -> None:
    config = load_config("default", [f"train.batch_size={batch}"])
    assert by_batch(config) == {"virtual_shards": shards, "supcon_samples": samples}
    settings = train_config(config)
    assert (settings.feed.virtual_shards, settings.loss.supcon_samples) == (shards, samples)
    assert (config.train.virtual_shards, config.train.supcon_samples) == (0, 0), "the config stays as it was told"


def test_what_is_told_is_taken() -> None:
    settings = train_config(load_config("default", ["train.virtual_shards=8", "train.supcon_samples=64"]))
    assert (settings.feed.virtual_shards, settings.loss.supcon_samples) == (8, 64)
