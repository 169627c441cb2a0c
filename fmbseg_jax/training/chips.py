"""Published figures of accelerators and of the hosts that they sit in, and the least time of a step by them."""

from dataclasses import dataclass, replace

GIB = 1 << 30


@dataclass(frozen=True)
class Chip:
    """Peaks of an accelerator and of its host; bytes, and operations or bytes a second."""

    flops: float
    """bfloat16 matrix products, dense."""
    memory: float
    """Of its own memory."""
    exchange: float
    """To its neighbours, one way: within a pod or a host."""
    network: float
    """Of a host to other hosts, one way, shared by its chips; 0: chips of other hosts are as near."""
    store: float
    """Into a host, from where DATA lies."""
    per_host: int
    capacity: int = 0
    """Of its memory."""
    usable: int = 0
    """Of that, what jax has: of a TPU what its compiler calls available, of a GPU three quarters, jax's default."""

    def in_hosts_of(self, chips: int) -> "Chip":
        """The same with so many in a host, which has that part of the links outward."""
        part = chips / self.per_host
        return replace(self, network=self.network * part, store=self.store * part, per_host=chips)


def _tpu(tera: int, giga: int, exchange: int, store: int, per_host: int, capacity: int, usable: float) -> Chip:
    rates = tera * 1e12, giga * 1e9, exchange * 1e9, 0.0, store * 1e9
    return Chip(*rates, per_host, capacity * GIB, int(usable * GIB))


def _gpu(tera: int, giga: int, exchange: int, network: int, store: int, capacity: int) -> Chip:
    rates = tera * 1e12, giga * 1e9, exchange * 1e9, network * 1e9, store * 1e9
    return Chip(*rates, 8, capacity, capacity * 3 // 4)


CHIPS = {
    # docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: TFLOP/s, GB/s of memory, interconnect one way (half of what is
    # published both ways; v4's 2,400 Gbit/s, v5p's 4,800), Gbit/s of a host's ports, chips a host, GiB; all chips of a
    # slice are one torus. Available memory as libtpu 0.0.42 says where a program needs more.
    "TPU v4": _tpu(275, 1228, 300, 25, 4, 32, 30.75),
    "TPU v5 lite": _tpu(197, 819, 200, 25, 8, 16, 15.75),
    "TPU v5": _tpu(459, 2765, 600, 25, 4, 95, 95.0),
    "TPU v5p": _tpu(459, 2765, 600, 25, 4, 95, 95.0),
    "TPU v6 lite": _tpu(918, 1638, 400, 100, 8, 32, 31.25),
    # NVIDIA's data sheets of A100, H100, H200 (SXM) and DGX B200: dense TFLOP/s, GB/s of memory, NVLink one way (half
    # of 600, 900, 900, 1,800 GB/s); of the DGX systems: 8 ports of 200 or 400 Gbit/s a host, two more for storage.
    # Bytes as the cards tell them: rehearsal/topologies.py.
    "NVIDIA A100-SXM4-80GB": _gpu(312, 2039, 300, 200, 50, 85100068864),
    "NVIDIA H100 80GB HBM3": _gpu(989, 3350, 450, 400, 100, 84942979072),
    "NVIDIA H200": _gpu(989, 4800, 450, 400, 100, 151397597184),
    "NVIDIA B200": _gpu(2250, 8000, 900, 400, 100, 191514411008),
}
"""By jax's device_kind."""


def step_seconds(chip: Chip, hosts: int, flops: float, moved: float, sent: float, fed: float) -> dict[str, float]:
    """Seconds of a step on `hosts` hosts with all their chips, as long as nothing but the peaks limits it.

    With n = hosts * per_host chips, and a device's own share of flops, bytes moved to and from its memory, bytes of
    the collectives' results (those of sums twice: once to add and once to spread, as in a ring), and bytes of
    features fed to it from the store each step:

        work = max(flops / chip.flops, moved / chip.memory)
        sum = (n - 1) / n * sent / link;  link = min(exchange, network) where the ring crosses hosts
              (network: all of a host's ports, which a hierarchical ring uses), else exchange
        feed = fed * per_host / store, read ahead, so that it hides behind the rest or bounds it
        step = max(work + sum, feed);  work + sum where the features lie on the devices and nothing is fed

    Sum and work are added, as the gradient of a linear head is there at the end only. Latencies, of some ten
    microseconds a collective and more a launch, are left out: a step of a tenth of a millisecond is not to be had.
    """
    chips = hosts * chip.per_host
    work = max(flops / chip.flops, moved / chip.memory)
    link = min(chip.exchange, chip.network) if chip.network and hosts > 1 else chip.exchange
    summed = (chips - 1) / chips * sent / link
    feed = fed * chip.per_host / chip.store
    return {"work": work, "sum": summed, "feed": feed, "resident": work + summed, "fed": max(work + summed, feed)}
