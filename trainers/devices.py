"""Claiming a share of a machine before JAX starts; both are fixed from then on."""

import os
import sys
from collections import Counter
from pathlib import Path

_GPU_MEMORY = 0.9  # of a GPU; the rest is for CUDA contexts and libraries


def claim(*, num_cpus: int, gpu_share: float | None) -> None:
    """Start JAX on `num_cpus` threads and, with a `gpu_share` > 0, on that share of a GPU's memory.

    With a share of 0 JAX uses the CPU alone; with None it takes what it finds.

    The number of threads decides the last bits of a result on a CPU, so a run can be repeated
    exactly only with the number it had. XLA sizes its pool by the cores the process may use while
    the backend starts; afterwards the threads may run on every core again.
    """
    if gpu_share is None:
        pass  # whatever JAX finds
    elif gpu_share > 0:
        os.environ["XLA_CLIENT_MEM_FRACTION"] = f"{min(gpu_share, 1) * _GPU_MEMORY:.4f}"
        os.environ.pop("XLA_PYTHON_CLIENT_MEM_FRACTION", None)
    else:
        os.environ["JAX_PLATFORMS"] = "cpu"
    if sys.platform != "linux":  # elsewhere a process cannot choose its cores
        return _start_backend()
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[: max(num_cpus, 1)])
    try:
        _start_backend()
    finally:
        for thread in Path("/proc/self/task").iterdir():
            os.sched_setaffinity(int(thread.name), all_cores)


def count_programs(function: str) -> Counter[str]:
    """A count, from now on, of how often this process traces and compiles `function`."""
    import jax

    compiled = f"jit({function})"
    counts: Counter[str] = Counter(traced=0, compiled=0)

    def count(event: str, duration_secs: float, **facts: str | int) -> None:
        if event.endswith("jaxpr_trace_duration") and facts.get("fun_name") == function:
            counts["traced"] += 1
        if event.endswith("backend_compile_duration") and facts.get("fun_name") == compiled:
            counts["compiled"] += 1

    jax.monitoring.register_event_duration_secs_listener(count)
    return counts


def _start_backend() -> None:
    import jax

    jax.devices()


def describe() -> dict[str, str | int]:
    """The device that computations run on: kind, id and platform."""
    import jax

    device = jax.devices()[0]
    return {"device_kind": device.device_kind, "device_id": device.id, "platform": device.platform}
