"""Compose files and Kubernetes manifests: their own schemas, and what makes them safe."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from ruamel.yaml import YAML

from tests.missing import missing

ROOT = Path(__file__).parents[2]
COMPOSE, KUBERAY = ROOT / "docker", ROOT / "docker" / "kuberay"
# Keys of KubeRay objects, version 1.6, as far as they are used here: a cluster takes a misspelt one
# without a word.
RAY_CLUSTER = {
    *("rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions"),
    *("headGroupSpec", "workerGroupSpecs"),
}
RAY_HEAD = {"serviceType", "enableIngress", "rayStartParams", "template"}
RAY_WORKERS = {
    *("groupName", "replicas", "minReplicas", "maxReplicas"),
    *("rayStartParams", "template"),
}
RAY_JOB = {"clusterSelector", "submissionMode", "entrypoint"}
RAY_AUTOSCALER = {"idleTimeoutSeconds", "securityContext", "volumeMounts"}


def documents(path: Path) -> Iterator[dict[str, Any]]:
    yield from YAML(typ="safe", pure=True).load_all(path.read_text())


MANIFESTS = [
    pytest.param(document, id=f"{path.stem}-{document['kind']}-{document['metadata']['name']}")
    for path in sorted(KUBERAY.glob("*.yaml"))
    for document in documents(path)
]


def pods(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The pod templates of a manifest."""
    spec = manifest.get("spec", {})
    if manifest["kind"] == "RayCluster":
        return [
            spec["headGroupSpec"]["template"],
            *(g["template"] for g in spec["workerGroupSpecs"]),
        ]
    return [spec["template"]] if "template" in spec else []


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_is_valid(manifest: dict[str, Any]) -> None:
    if not manifest["apiVersion"].startswith("ray.io/"):
        kubernetes_validate.validate(manifest, "1.33", strict=True)
    for template in pods(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, "1.33", strict=True)


def test_kuberays_own_keys_are_spelt_right() -> None:
    (cluster,) = documents(KUBERAY / "raycluster.yaml")
    (job,) = documents(KUBERAY / "rayjob.yaml")
    spec = cluster["spec"]
    assert set(spec) <= RAY_CLUSTER
    assert set(spec["headGroupSpec"]) <= RAY_HEAD
    assert set(spec["autoscalerOptions"]) <= RAY_AUTOSCALER
    assert all(set(group) <= RAY_WORKERS for group in spec["workerGroupSpecs"])
    assert set(job["spec"]) <= RAY_JOB
    assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert spec["authOptions"] == {"mode": "token", "secretName": "sweep-token"}
    ray = re.search(r"^ray==([\d.]+)", (COMPOSE / "cpu.lock").read_text(), re.MULTILINE)
    assert ray is not None
    assert spec["rayVersion"] == ray[1]


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_pods_are_restricted_and_services_stay_inside(manifest: dict[str, Any]) -> None:
    if manifest["kind"] == "Service":
        assert manifest["spec"].get("type", "ClusterIP") == "ClusterIP"
    if manifest["kind"] != "Namespace":
        assert manifest["metadata"]["namespace"] == "sweep"
    assert manifest["kind"] not in ("Secret", "Ingress")
    for template in pods(manifest):
        pod = template["spec"]
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["readinessProbe"]
            mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
            assert "/tmp" in mounted
            for variable in container.get("env", ()):
                secret = re.search("PASSWORD|TOKEN|SECRET|KEY", variable["name"])
                assert (
                    not secret or "valueFrom" in variable or variable["value"].startswith("/run/")
                )


def compose_config(folder: Path, *files: str) -> dict[str, Any]:
    """The compose files as one, as docker-compose understands them."""
    if not shutil.which("docker-compose"):
        missing("docker-compose must be installed")
    command = ["docker-compose", "--project-directory", str(COMPOSE)]
    for name in files:
        # Debian's docker-compose is older than the name of a project, and knows all the rest.
        text = re.sub(r"^name: .*$", "", (COMPOSE / name).read_text(), flags=re.MULTILINE)
        (path := folder / name).write_text(text)
        command += ["-f", str(path)]
    done = subprocess.run([*command, "config"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return YAML(typ="safe", pure=True).load(done.stdout)


def test_the_compose_file_is_valid_and_shut(tmp_path: Path) -> None:
    config = compose_config(tmp_path, "compose.yaml")
    assert set(config["services"]) == {"head", "worker", "mlflow", "postgres"}
    for name, service in config["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        # A secret is a file that user 1000 alone can read.
        assert service.get("user", "1000:1000") == "1000:1000", name
        for port in service.get("ports", ()):
            assert str(port).startswith("127.0.0.1:"), name
        for key, value in service.get("environment", {}).items():
            assert not re.search("PASSWORD|TOKEN|SECRET", key) or value.startswith("/run/"), name
    assert all(set(secret) == {"file"} for secret in config["secrets"].values())
    assert "0.0.0.0" not in (COMPOSE / "compose.yaml").read_text()


def test_the_override_gives_the_worker_its_gpus(tmp_path: Path) -> None:
    worker = compose_config(tmp_path, "compose.yaml", "compose.gpu.yaml")["services"]["worker"]
    (device,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert worker["command"] == ["start-worker"]


def test_images_run_as_a_user_and_hash_what_they_install() -> None:
    text = (COMPOSE / "Dockerfile").read_text()
    for target in ("cpu", "cuda"):
        stage = text.split(f" AS {target}\n")[1].split("\nFROM ")[0]
        assert stage.rstrip().endswith("USER 1000:1000"), target
        lock = (COMPOSE / f"{target}.lock").read_text()
        assert "://" not in lock
        assert "--hash=sha256:" in lock
    installs = re.findall(r"pip install ([^&\n]*)", text.replace("\\\n", " "))
    assert len(installs) == 5
    assert all("--require-hashes" in line or "--no-index" in line for line in installs)
    assert all("--compile" in line for line in installs)
    # A package without a wheel would be built by whatever setuptools the index has.
    locked = [line for line in installs if re.search("(cpu|cuda).lock", line)]
    assert all("--no-build-isolation" in line for line in locked)


@pytest.mark.parametrize(
    ("script", "command"),
    [
        ("start-head", ["ray", "start"]),
        ("start-worker", ["ray", "start"]),
        ("start-mlflow", ["mlflow", "server"]),
    ],
)
def test_a_start_script_uses_options_that_there_are(script: str, command: list[str]) -> None:
    place, *words = command
    known = subprocess.run(
        [Path(sys.executable).with_name(place), *words, "--help"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    used = set(re.findall(r" (--[a-z-]+)", (COMPOSE / "bin" / script).read_text()))
    assert used
    assert used <= set(re.findall(r"--[a-z-]+", known))


def test_secrets_are_read_from_files_where_no_variable_is_set(tmp_path: Path) -> None:
    for name in ("ray_token", "postgres_password", "mlflow_password"):
        (tmp_path / name).write_text(f"of {name}'s $file")
    done = subprocess.run(
        [COMPOSE / "bin" / "with-secrets", "env"],
        env={"PATH": os.environ["PATH"], "SECRETS_DIR": str(tmp_path), "PGPASSWORD": "mine"},
        capture_output=True,
        text=True,
        check=True,
    )
    lines = (line.partition("=") for line in done.stdout.splitlines())
    found = {name: value for name, _, value in lines}
    assert found["RAY_AUTH_TOKEN_PATH"] == str(tmp_path / "ray_token")
    assert found["PGPASSWORD"] == "mine"
    assert found["MLFLOW_TRACKING_PASSWORD"] == "of mlflow_password's $file"
    assert "MLFLOW_FLASK_SERVER_SECRET_KEY" not in found


def test_the_locks_of_the_images_agree_with_the_projects() -> None:
    whole = set(re.findall(r"^(\S+==\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE))
    cpu, cuda = (
        set(re.findall(r"^(\S+==\S+)", (COMPOSE / f"{target}.lock").read_text(), re.MULTILINE))
        for target in ("cpu", "cuda")
    )
    assert cpu <= whole
    assert cpu <= cuda
