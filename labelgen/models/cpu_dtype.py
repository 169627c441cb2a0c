"""Which dtype the encoders compute in on a CPU where config.dtype = auto, and why.

bfloat16 where the processor has instructions for it and a short trial with the model's width shows that it is clearly
faster; else float32, the reference, as for small models always. Without the instructions bfloat16 is emulated, several
times as slow as float32; with them it need not be faster either: a limit of the container or of oneDNN may hide them.
Used by labelgen.models.compute.
"""

import statistics
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512-BF16", "sve_bf16": "SVE BF16", "bf16": "ARM BF16"}
"""As torch.cpu.get_capabilities names them (the last two are ARM's) -> what we call them; the best first."""
FASTER = 1.2
"""So many times as fast as float32 must bfloat16 be, in both halves of the trial."""
LEAST_WIDTH = 384
"""ViT-S's. Narrower models are float32: they are fast anyhow, and would differ from machine to machine for little."""
TOKENS, HEAD, REPEATS = 514, 64, 3
"""Of the trial: rows (two pictures of 224 px in patches of 14), channels a head, runs a dtype after a first one."""


class Choice(NamedTuple):
    """A dtype, and the reason in words for the command's first lines."""

    dtype: torch.dtype
    why: str


class Trial(NamedTuple):
    """How many times as fast as in float32 bfloat16 is."""

    product: float
    block: float

    @property
    def least(self) -> float:
        return min(self)


def instructions(capabilities: Mapping[str, Any]) -> str:
    """What the processor has for bfloat16 products; empty: nothing."""
    return next((name for flag, name in INSTRUCTIONS.items() if capabilities.get(flag)), "")


def choose(found: str, trial: Callable[[], Trial]) -> Choice:
    """found: `instructions`; trial: run only where there are some."""
    if not found:
        return Choice(torch.float32, "this processor has no instructions for bfloat16")
    gain = trial().least
    said = f"{gain:.1f} times as fast as float32 in a short trial"
    if gain < FASTER:
        return Choice(torch.float32, f"bfloat16 by {found} is only {said}")
    return Choice(torch.bfloat16, f"by {found}, {said}")


@lru_cache
def of_this_processor(width: int) -> Choice:
    """The choice for a model of this width, made once a process."""
    if width < LEAST_WIDTH:
        return Choice(torch.float32, f"as for every model narrower than {LEAST_WIDTH}")
    return choose(instructions(torch.cpu.get_capabilities()), lambda: run_trial(width))


@torch.inference_mode()
def run_trial(width: int, seconds: Callable[[Callable[[], Tensor]], float] | None = None) -> Trial:
    """A product and a transformer block of this width, in both dtypes in turns: medians.

    seconds: what a run takes, by the clock unless given. At ViT-L's width some 20 GFLOP a dtype.
    """
    timed = seconds or _seconds
    width = max(HEAD, width // HEAD * HEAD)
    x, weights = torch.randn(1, TOKENS, width), [torch.randn(n * width, m * width) * width**-0.5 for n, m in _SHAPES]
    half = [weight.bfloat16() for weight in weights]

    def gain(run: Callable[[Tensor, list[Tensor]], Tensor]) -> float:
        def once(narrow: bool) -> float:
            with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
                return timed(lambda: run(x, half if narrow else weights))

        runs = [(once(False), once(True)) for _ in range(REPEATS + 1)][1:]
        return statistics.median(slow for slow, _ in runs) / max(statistics.median(fast for _, fast in runs), 1e-9)

    return Trial(gain(lambda x, weights: F.linear(x, weights[2])), gain(_block))


_SHAPES = (3, 1), (1, 1), (4, 1), (1, 4)
"""Of qkv, the out-projection and the two products of the FFN, in widths."""


def _block(x: Tensor, weights: list[Tensor]) -> Tensor:
    """A ViT's block of tokens [1, N, width]."""
    qkv, out, wide, narrow = weights
    _, tokens, width = x.shape
    q, k, v = F.linear(F.layer_norm(x, x.shape[-1:]), qkv).view(2, tokens // 2, 3, -1, HEAD).permute(2, 0, 3, 1, 4)
    heads = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(1, tokens, width)
    x = x + F.linear(heads, out)
    added: Tensor = x + F.linear(F.gelu(F.linear(F.layer_norm(x, x.shape[-1:]), wide)), narrow)
    return added


def _seconds(run: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
