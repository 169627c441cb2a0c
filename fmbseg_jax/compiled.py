"""Compiled functions are kept, in RUN by default: a preempted run that goes on, on a new machine too, does not compile.

JAX finds them by the program, its own version, XLA's flags, and a fingerprint of the devices, which for a CPU depends
on its instructions (restricted by --xla_cpu_max_isa it is another): what was compiled for other machines is passed
over. Of several hosts the first one writes and all read; on CPUs only the first one finds its own, as the others ask
for something else (on GPUs JAX makes it the same; not tried). What is kept is executed: go on only with a RUN that you
would trust as code.
"""

from pathlib import Path

import jax

from fmbseg_jax.runs import Run


def keep_compiled(run: Run, folder: str) -> None:
    """From here on compiled functions are taken from `folder`, below RUN or absolute, and put there; "": they are not.

    Before the first one is compiled. JAX_COMPILATION_CACHE_DIR in the environment goes first.
    """
    if not folder or jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    run.bring(folder)
    path = str(run.path / Path(folder).expanduser())
    jax.config.update("jax_compilation_cache_dir", path)  # type: ignore[no-untyped-call]
    # XLA's own caches, for GPUs, would make the folder's path a part of what is asked for.
    jax.config.update("jax_persistent_cache_enable_xla_caches", "none")  # type: ignore[no-untyped-call]
    # JAX keeps what took a second; a start has some ten small functions before the step.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)  # type: ignore[no-untyped-call]
