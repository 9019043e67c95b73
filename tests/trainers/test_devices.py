import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import trainers
from trainers.devices import count_programs, describe

CLAIM = """
import json, os, sys
from pathlib import Path
from trainers.devices import claim, describe
cores = os.sched_getaffinity(0) if sys.platform == "linux" else None
num_cpus, gpu_share = json.loads(sys.argv[1])
claim(num_cpus=num_cpus, gpu_share=gpu_share)
threads = Path("/proc/self/task").iterdir() if cores else []
free = all(os.sched_getaffinity(int(thread.name)) == cores for thread in threads)
print(json.dumps({"environment": dict(os.environ), "free": free, "device": describe()}))
"""

MULTIPLY = """
import json, os, sys
import numpy as np
from trainers.devices import claim
how, count = json.loads(sys.argv[1])
if how == "pin":
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
else:
    claim(num_cpus=count, gpu_share=0)
import jax
random = np.random.default_rng(0)
left, right = (random.normal(size=(20_000, size)).astype(np.float32) for size in (32, 16))
product = jax.jit(lambda a, b: a.T @ b)(left, right)
print(json.dumps(np.asarray(product).tobytes().hex()))
"""
JAX_VARIABLES = ("JAX_PLATFORMS", "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")


def in_a_fresh_process(program: str, argument: Any, **environment: str) -> Any:
    """What `program` prints last, as JSON, with none of JAX's variables set but those given."""
    inherited = {name: value for name, value in os.environ.items() if name not in JAX_VARIABLES}
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(argument)],
        cwd=Path(trainers.__path__[0]).parent,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("gpu_share", "given", "expected"),
    [
        (0, {}, {"JAX_PLATFORMS": "cpu"}),
        (None, {}, {}),
        (None, {"JAX_PLATFORMS": "cpu"}, {"JAX_PLATFORMS": "cpu"}),
        (0.25, {}, {"XLA_CLIENT_MEM_FRACTION": "0.2250"}),
        (1, {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5"}, {"XLA_CLIENT_MEM_FRACTION": "0.9000"}),
        (2.0, {"XLA_CLIENT_MEM_FRACTION": "0.1"}, {"XLA_CLIENT_MEM_FRACTION": "0.9000"}),
    ],
)
def test_a_claim_sets_what_jax_reads_and_gives_the_cores_back(
    gpu_share: float | None, given: dict[str, str], expected: dict[str, str]
) -> None:
    found = in_a_fresh_process(CLAIM, [1, gpu_share], **given)
    variables = {name: found["environment"].get(name) for name in JAX_VARIABLES}
    assert {name: value for name, value in variables.items() if value is not None} == expected
    assert found["free"]
    if expected.get("JAX_PLATFORMS") == "cpu":
        assert found["device"]["platform"] == "cpu"


@pytest.mark.parametrize("count", [1, 2])
def test_a_claim_of_some_cores_gives_the_bits_of_a_process_that_has_no_more(count: int) -> None:
    """The sum over 20,000 rows is cut by the number of threads, which shows in the last bits."""
    pinned = in_a_fresh_process(MULTIPLY, ["pin", count], JAX_PLATFORMS="cpu")
    assert in_a_fresh_process(MULTIPLY, ["claim", count]) == pinned


def test_a_count_of_programs_starts_now_and_counts_its_function_alone() -> None:
    def doubled(array: jax.Array) -> jax.Array:
        return array * 2

    def tripled(array: jax.Array) -> jax.Array:
        return array * 3

    two, three = jax.jit(doubled), jax.jit(tripled)
    two(np.ones(2))
    counts = count_programs("doubled")
    assert counts == {"traced": 0, "compiled": 0}
    for size in (2, 3, 3, 4):
        two(np.ones(size))
        three(np.ones(size))
    assert counts == {"traced": 2, "compiled": 2}


def test_the_device_is_described_in_plain_values() -> None:
    device = jax.devices()[0]
    assert describe() == {
        "device_kind": device.device_kind,
        "device_id": device.id,
        "platform": device.platform,
    }
