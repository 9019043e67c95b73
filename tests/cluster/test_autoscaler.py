"""A cluster that grows on demand: Ray's own autoscaler, over machines that it starts itself."""

import json
from pathlib import Path

import pytest

from tests.cluster.compose import machines
from tests.cluster.namespaces import network
from tests.faults.harness import SWEEP, Command, site

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),
]
CLUSTER = {
    "cluster_name": "grows",
    "max_workers": 2,
    "idle_timeout_minutes": 5,
    "upscaling_speed": 10,
    "provider": {
        "type": "fake_multinode",
        "disable_node_updaters": True,
        "disable_launch_config_check": True,
    },
    "available_node_types": {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {
            "resources": {"CPU": 1, "GPU": 1, "object_store_memory": 100_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "head_node_type": "ray.head.default",
    **{key: {} for key in ("auth", "docker", "file_mounts", "head_node", "worker_nodes")},
    **{key: [] for key in ("initialization_commands", "setup_commands", "cluster_synced_files")},
    **{f"{kind}_setup_commands": [] for kind in ("head", "worker")},
    **{f"{kind}_start_ray_commands": [] for kind in ("head", "worker")},
}


def test_demand_brings_the_first_node_and_then_the_other(tmp_path: Path) -> None:
    """The cluster has only a head, without cores; the sweep asks for two trials at once."""
    (tmp_path / "cluster.json").write_text(json.dumps(CLUSTER))
    with network(1, {"head": 0}) as net, site(tmp_path / "site", trials=8, epochs=40) as here:
        here.environment |= {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        here.environment |= {"JAX_PLATFORMS": "cpu"}
        grows = f"--autoscaling-config={tmp_path}/cluster.json"
        made = machines(net, here.directory.parent, {"head": here.environment}, {"head": [grows]})
        with made as nodes:
            nodes.start_node(0)
            nodes.await_nodes(1)
            words = [SWEEP, "launch", "faults.yaml", "--address", "auto"]
            words += ["--set", "resources={gpus_per_trial: 1, max_concurrent: 2}"]
            command = nodes.command(0, "head", *words)
            here.commands.append(Command(here.folder, command, nodes.environment("head")))
            assert here.commands[-1].wait(600) == 0, here.commands[-1].output() + nodes.logs()
            told = here.commands[-1].output()
        assert "no node holds a trial yet; waiting up to 10 min for one to join" in told
        trials = here.read()[1]
        assert {trial.state for trial in trials} == {"complete"}
        workers = [report["worker"] for trial in trials for report in trial.reports]
        assert len({worker["pid"] for worker in workers}) == 2
        assert {tuple(worker["gpu_ids"]) for worker in workers} == {("0",)}
