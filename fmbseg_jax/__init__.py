"""The trained half: a small Flax head over frozen patch features, learnt from free labels. No torch here."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fmbseg_jax.inference.segmenter import Segmentation, Segmenter

__all__ = ["Segmentation", "Segmenter"]


def __getattr__(name: str) -> Any:
    """The public names, imported when asked for: the commands do not need them."""
    if name in __all__:
        from fmbseg_jax.inference import segmenter

        return getattr(segmenter, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
