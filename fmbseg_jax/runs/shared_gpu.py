"""One GPU for jax and torch in one process: jax takes its memory as it needs it, not three quarters of it at once.

Nothing here has run on a GPU: what the environment holds when jax starts its backend is tested, and what is said.
"""

import os
from collections.abc import Sequence

import jax

PREALLOCATE = "XLA_PYTHON_CLIENT_PREALLOCATE"
ALLOCATION = (
    PREALLOCATE,
    "XLA_PYTHON_CLIENT_ALLOCATOR",
    "XLA_CLIENT_MEM_FRACTION",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",  # the older name; jax refuses both at a time
)
"""What a user can say about jax's part of a GPU's memory; jax reads it when its backend starts, and counts empty as
unset."""


def leave_room_for_torch() -> None:
    """Lets jax allocate on demand; before its first use of a device, in a process that will load torch too.

    An environment that says how jax is to allocate stays as it is, and so does all where a backend is started: nothing
    would come of it then.
    """
    if not settings() and not backend_started():
        os.environ[PREALLOCATE] = "false"


def settings() -> dict[str, str]:
    """Which of ALLOCATION the environment sets."""
    return {name: os.environ[name] for name in ALLOCATION if os.environ.get(name)}


def backend_started() -> bool:
    """Whether jax has started a backend. Starts none.

    No public function tells. This count, documented as one to be set before, is refused when it comes too late.
    """
    count = jax.config.jax_num_cpu_devices  # type: ignore[attr-defined]
    try:
        jax.config.update("jax_num_cpu_devices", count + 1)  # type: ignore[no-untyped-call]
    except RuntimeError:
        return True
    jax.config.update("jax_num_cpu_devices", count)  # type: ignore[no-untyped-call]
    return False


def how_shared(devices: Sequence[jax.Device]) -> str:
    """A line on who takes what of these devices' memory; empty where none of them is a GPU."""
    kind = next((device.device_kind for device in devices if device.platform == "gpu"), None)
    if kind is None:
        return ""
    found = " ".join(f"{name}={value}" for name, value in settings().items())
    if not found:
        return (
            f"{kind}: jax started with three quarters of its memory, and torch has what is left; set "
            f"{PREALLOCATE}=false before jax's first use of a device"
        )
    how = "what it needs as it goes" if found == f"{PREALLOCATE}=false" else "as the environment says"
    return f"{kind}: its memory is for jax and torch; jax takes {how} ({found})"
