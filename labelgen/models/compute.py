"""Where and how the frozen encoders compute: device, dtype, and how many rows at a time without running out of memory.

Data flow: config.device, config.dtype, batch_size -> what clip, dense, sam and dinov2 run on.
"""

import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from labelgen.core.errors import UserError
from labelgen.core.progress import say
from labelgen.core.threads import Busy, in_order
from labelgen.models import cpu_dtype
from labelgen.models.cpu_dtype import Choice

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WIDTH = 1024
"""Of a model that does not say it: ViT-L's."""
FREE_SHARE = 0.5
"""Of the device's free memory, what a batch that is chosen by itself may take."""
MOST_ROWS = 256
"""The most that is chosen: a GPU is busy long before."""
CACHED_BYTES = 1 << 24
"""The largest tensor between two products on the CPU: more leaves its caches, and is mapped anew each time."""
MPS_SHARE = 4
"""On MPS, whose memory is the system's too, a batch is the CPU's divided by this."""
_OUT_OF_MEMORY = ("DefaultCPUAllocator: can't allocate memory", "MPS backend out of memory", "STATUS_ALLOC_FAILED")


LANES = 4
"""Photos in work at a time, at most: while one waits for the CPU, the others keep the device busy. Each takes the
memory of its own answers (0.8 GB at most for 1,024 points) and of its batches."""
Item = TypeVar("Item")
Made = TypeVar("Made")


PRODUCTS: dict[type, tuple[str, ...]] = {
    nn.Linear: ("weight", "bias"),
    nn.Conv2d: ("weight", "bias"),
    nn.MultiheadAttention: ("in_proj_weight", "in_proj_bias"),
    nn.modules.linear.NonDynamicallyQuantizableLinear: ("weight", "bias"),
}
"""Of exactly these classes (one derived from them may do something else with its weights) the operands of products."""


class Lanes:
    """Several photos in work at a time, each in its own thread: on CUDA each with its own stream, on the CPU each with
    its share of the cores. A photo's results do not depend on what the other lanes do."""

    def __init__(self, device: torch.device) -> None:
        threads = torch.get_num_threads()
        self.device, self.count = device, {"cuda": LANES, "cpu": min(LANES, threads)}.get(device.type, 1)
        self._threads = max(1, threads // self.count)

    def begin(self) -> None:
        """First of all in a lane's thread."""
        if self.device.type == "cpu":
            torch.set_num_threads(self._threads)

    @contextmanager
    def lane(self) -> Iterator[None]:
        """Around the work on a photo."""
        if self.device.type != "cuda":
            yield
            return
        stream: Any = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            yield
            stream.synchronize()

    def each(self, items: Iterable[Item], work: Callable[[Item], Made]) -> Generator[Made, None, None]:
        """What `work` makes of each item, in their order; `count` of them are in work at a time, each in a lane."""
        if self.count == 1:
            yield from map(work, items)
            return

        def in_lane(item: Item) -> Made:
            with self.lane():
                return work(item)

        yield from in_order(items, in_lane, self.count, self.count + 1, self.begin)


def busy(device: torch.device) -> Busy:
    """How busy the device is: on CUDA by events, elsewhere by the clock."""
    return Busy(Event) if device.type == "cuda" else Busy()


class Event:
    """When the device's current stream gets here."""

    def __init__(self) -> None:
        self.event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        self.event.record()

    def seconds_to(self, later: "Event", /) -> float:
        """From this moment to another one; waits for both."""
        self.event.synchronize()
        later.event.synchronize()
        return float(self.event.elapsed_time(later.event)) / 1000


class Rows(Protocol):
    """An array or tensor: rows along its first axis."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> Any: ...


R = TypeVar("R", bound=Rows)
T = TypeVar("T")


def torch_device(name: str) -> torch.device:
    """`auto`: CUDA, else MPS, else the CPU. UserError for a device that is not there."""
    if name == "auto":
        there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
        return torch.device(next(kind for kind, usable in there.items() if usable))
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch says it in several ways
        reason = str(error).strip().partition("\n")[0][:300]
        raise UserError(f"device = {name!r} cannot be used ({reason}); set auto, cpu, mps, cuda or cuda:N") from error
    return device


def torch_dtype(name: str, device: torch.device, width: int = WIDTH) -> torch.dtype:
    """The compute type of that name. UserError for another one, or one that the device does not have.

    auto: `best_dtype`. width: the model's, which counts for the trial on CPUs.
    """
    if name == "auto":
        return best_dtype(device, width).dtype
    if name not in DTYPES:
        raise UserError(f"dtype = {name!r}; choose one of auto, {', '.join(DTYPES)}")
    try:
        with autocast(device, DTYPES[name]):
            one = torch.ones(1, 1, device=device)
            one @ one
    except (RuntimeError, TypeError) as error:
        raise UserError(f"dtype = {name!r}: not possible on {device.type} ({error}); set auto or float32") from error
    return DTYPES[name]


def best_dtype(device: torch.device, width: int = WIDTH) -> Choice:
    """What auto is: on CUDA bfloat16 where the GPU has it, else float16; on MPS float16; on the CPU cpu_dtype's."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            native = torch.cuda.is_bf16_supported(including_emulation=False)
        return Choice(torch.bfloat16, "this GPU has it") if native else Choice(torch.float16, "an older GPU")
    return Choice(torch.float16, "what MPS has") if device.type == "mps" else cpu_dtype.of_this_processor(width)


def why_dtype(name: str, device: torch.device, dtype: torch.dtype, width: int = WIDTH) -> str:
    """For a command's first lines: which dtype, and why. name: config.dtype; dtype: what it became."""
    if name == "auto":
        return f"dtype auto: {dtype_name(dtype)} on {device.type}, {best_dtype(device, width).why}"
    slow = device.type == "cpu" and dtype != torch.float32
    has = not slow or cpu_dtype.instructions(torch.cpu.get_capabilities())
    warning = "" if has else "; this processor has no instructions for it: slower than float32"
    return f"dtype {dtype_name(dtype)} on {device.type}, as set{warning}"


def dtype_name(dtype: torch.dtype) -> str:
    """`float32`, `bfloat16` or `float16`: what DATA says."""
    return str(dtype).removeprefix("torch.")


def frozen(model: nn.Module, device: torch.device) -> Any:
    """The model in evaluation mode on the device, float32, without gradients."""
    return model.eval().requires_grad_(False).to(device)


def narrow(model: nn.Module, dtype: torch.dtype) -> None:
    """On the CPU keeps the weights of products in the dtype that autocast makes of them anyhow in each pass: the same
    bits, half the memory. Norms, positions and whatever else is no product's stay float32.

    nn.MultiheadAttention then takes the fused kernel, which keeps its scores in float32, for one that does not. Only
    for networks that run within `autocast`.
    """
    for module in model.modules():
        for name in PRODUCTS.get(type(module), ()):
            weight = getattr(module, name)
            if weight is not None and weight.device.type == "cpu":
                weight.data = weight.data.to(dtype)


def by_rows(run: Callable[[Tensor], Tensor], x: Tensor, widening: int = 4) -> Tensor:
    """What `run`, a feed-forward network, makes of tokens [..., D]; on the CPU of some at a time, the same bits: what
    is as wide as `widening` D in between then stays in its caches and is not mapped anew by each pass."""
    flat = x.flatten(0, -2)
    rows = max(1, CACHED_BYTES // (4 * widening * x.shape[-1]))
    if x.device.type != "cpu" or len(flat) <= rows:
        return run(x)
    return torch.cat([run(part) for part in torch.split(flat, rows)]).view(*x.shape[:-1], -1)


def parameters(build: Callable[[], nn.Module]) -> int:
    """How many parameters the model has that `build` makes; it takes no memory."""
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in build().parameters())


def onto(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device; float64 as float32 on MPS, which has no other."""
    if device.type == "mps" and array.dtype == np.float64:
        array = array.astype(np.float32)
    return torch.from_numpy(array).to(device)


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Context for a forward pass: products in `dtype`, the residual stream and the weights in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


class OutOfMemoryError(UserError):
    """A forward pass did not fit."""


@contextmanager
def enough_memory(encoder: str, fix: str) -> Iterator[None]:
    """Whatever torch or numpy raise for want of memory becomes a UserError that names the encoder and the fix."""
    try:
        yield
    except Exception as error:
        if not ran_out(error):
            raise
        reason = str(error).strip().partition("\n")[0][:200]
        raise OutOfMemoryError(f"{encoder}: out of memory with one at a time ({reason}); {fix}") from error


def ran_out(error: Exception) -> bool:
    """Whether this means that memory ran out: CUDA has a class for it, MPS, cuBLAS and the CPU's allocator a text."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)


def _let_go(error: BaseException | None) -> None:
    """Empties the functions that the error, and those before it, came out of: what they held is free at once.

    Else tensors live as long as the error, which may be part of a circle (contextlib makes one since Python 3.12).
    """
    while error:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Batches:
    """How many rows an encoder takes at a time: as set, or as the device's memory allows; halved when it runs out.

    rows: the number, once it is known; a halved one stays for the rest of the run.
    """

    def __init__(self, encoder: str, fix: str, device: torch.device, rows: int, on_cpu: int = 1) -> None:
        """encoder: its name in messages; fix: what to do where not even one row fits; rows: 0 to choose, on the CPU
        on_cpu."""
        self.encoder, self.fix, self.device, self.rows, self.on_cpu = encoder, fix, device, rows, on_cpu
        self.busy = Busy()

    def over(self, rows: R, run: Callable[[R], T], row_bytes: int = 1, most: int | None = None) -> list[T]:
        """What `run` makes of the rows, part by part in their order; a part has at most `most` of them.

        row_bytes: about what one takes, read when the number is chosen, at the first call: all models are on the device
        by then. A part that does not fit is run again with half as many. UserError when one row does not fit.
        """
        self.rows = self.rows or fitting(self.device, row_bytes, self.on_cpu)
        done: list[T] = []
        start = 0
        while start < len(rows):
            count = min(self.rows, most or self.rows, len(rows) - start)
            try:
                with enough_memory(self.encoder, self.fix), self.busy():
                    done.append(run(rows[start : start + count]))
            except OutOfMemoryError as error:
                if count == 1:
                    raise
                _let_go(error)
            else:
                start += count
                continue
            self._halve(count)  # not within `except`: what the failed pass held is free only now
        return done

    def _halve(self, count: int) -> None:
        self.rows = count // 2
        if self.device.type != "cpu":
            torch.accelerator.empty_cache()
        say(f"{self.encoder}: out of memory with {count} at a time; goes on with {self.rows}")


def fitting(device: torch.device, row_bytes: int, on_cpu: int) -> int:
    """How many rows to begin with: a power of two, so that the same GPU takes the same number again."""
    if device.type != "cuda":
        return on_cpu if device.type == "cpu" else max(1, on_cpu // MPS_SHARE)
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + cached
    rows = min(MOST_ROWS, max(1, int(free * FREE_SHARE) // (LANES * row_bytes)))
    return 1 << (rows.bit_length() - 1)
