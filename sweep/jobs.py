"""A sweep's driver as a job of the Ray cluster, so that nobody has to stay and wait for it.

What a job is started with can be read by all who may use the cluster: it holds no secret. The job's
command takes them from the environment and the files of the node that it runs on.
"""

import logging
import os
import shlex
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from search_spaces import SweepConfig, config_to_yaml
from sweep.access import Warn, check_access, refuse_password, unreachable
from sweep.commands import command_for
from sweep.delivery import absolute_uri
from sweep.errors import CommandError
from sweep.files import make_directory, write_text
from sweep.secrecy import has_password

# How long Ray waits after SIGTERM before it kills: a driver ends in 30 s, and resumes either way.
_ENVIRONMENT = {"RAY_JOB_STOP_WAIT_TIME_S": "60"}


class Job(NamedTuple):
    """A submitted driver."""

    identity: str
    address: str  # of Ray's dashboard, http://HOST:PORT


def launch_detached(
    config: SweepConfig,
    sweeps_dir: Path,
    *,
    options: Sequence[str],
    storage: str | None,
    checkpoints: str | None,
    address: str | None,
    insecure: bool,
    warn: Warn,
) -> Job:
    """Submit `sweep launch` of a checked config, which is left in the folder of the sweeps.

    That folder, and the files of custom functions, must have the same path on the cluster's head.
    """
    if checkpoints:
        from sweep.stores import check_uri

        check_uri(checkpoints)
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    _refuse_secret("--storage", storage or "", "in PGPASSWORD, or in ~/.pgpass with mode 0600")
    _refuse_secret(
        "MLFLOW_TRACKING_URI",
        tracking_uri,
        "in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    )
    variables = dict(_ENVIRONMENT)
    if tracking_uri:
        variables["MLFLOW_TRACKING_URI"] = absolute_uri(tracking_uri)
    if experiment := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        variables["MLFLOW_EXPERIMENT_NAME"] = experiment
    submit = _submitter(address, insecure, warn)
    identity = _identity(config.name)
    file = _left_configs(sweeps_dir) / f"{identity}.yaml"
    make_directory(file.parent)
    write_text(file, config_to_yaml(config))
    stored = ["--storage", absolute_uri(storage)] if storage else []
    stored += ["--checkpoints", checkpoints] if checkpoints else []
    try:
        return submit(identity, _words("launch", str(file), sweeps_dir, options, stored), variables)
    except BaseException:
        file.unlink()
        raise


def remove_left_config(file: Path, sweeps_dir: Path) -> None:
    """Remove a config that `launch_detached` has left, now that its job has read it."""
    if file.parent == _left_configs(sweeps_dir):
        file.unlink(missing_ok=True)


def resume_detached(
    name: str,
    sweeps_dir: Path,
    *,
    options: Sequence[str],
    address: str | None,
    insecure: bool,
    warn: Warn,
) -> Job:
    """Submit `sweep resume` of a sweep that the cluster's head finds under the same path."""
    submit = _submitter(address, insecure, warn)
    return submit(_identity(name), _words("resume", name, sweeps_dir, options, []), _ENVIRONMENT)


def what_next(directory: Path, job: Job) -> str:
    """What to type once a job is submitted."""
    return (
        f"{directory.name}: submitted as the job {job.identity}\n"
        f"  follow it:         {command_for('watch', directory)}\n"
        f"  read its output:   ray job logs --follow --address {job.address} {job.identity}\n"
        f"  finish it early:   {command_for('stop', directory)}\n"
        f"  interrupt it:      ray job stop --address {job.address} {job.identity}\n"
        f"  then go on:        {command_for('resume', directory, '--detach')}"
    )


def _words(
    command: str, what: str, sweeps_dir: Path, options: Sequence[str], more: Sequence[str]
) -> str:
    place = ["--sweeps-dir", str(sweeps_dir.resolve())]
    return shlex.join(["sweep", command, what, *place, *options, *more])


def _left_configs(sweeps_dir: Path) -> Path:
    return sweeps_dir.resolve() / ".detached"


def _identity(name: str) -> str:
    return f"sweep-{name}-{uuid.uuid4().hex[:8]}"


def _refuse_secret(what: str, uri: str, way: str) -> None:
    if has_password(uri):
        raise CommandError(
            f"with --detach {what} must hold no password, for all who may use the cluster can read "
            f"how a job was started, but it holds one; leave it out, and have it {way} on the "
            "cluster's head when Ray is started there",
            exit_code=2,
        )


_AGENT_S = 60.0  # a head that has just started takes no job before its agent runs
_NO_AGENT = "No available agent"
_Submit = Callable[[str, str, Mapping[str, str]], Job]


def _submitter(address: str | None, insecure: bool, warn: Warn) -> _Submit:
    """What submits a job to a cluster that is there, and closed to others."""
    address = address or os.environ.get("RAY_ADDRESS") or ""
    refuse_password(address)
    if address in ("", "local"):
        raise CommandError(
            "--detach needs a Ray cluster that stays when this command has ended; name it with "
            "--address HOST:PORT, or the address of its dashboard, --address http://HOST:8265",
            exit_code=2,
        )
    client = _client(address, insecure, warn)

    def submit(identity: str, entrypoint: str, variables: Mapping[str, str]) -> Job:
        command = f"{entrypoint} --insecure" if insecure else entrypoint
        deadline = time.monotonic() + _AGENT_S
        while True:
            try:
                client.submit_job(
                    entrypoint=command,
                    submission_id=identity,
                    runtime_env={"env_vars": dict(variables)},
                )
                return Job(identity, client.get_address())
            except Exception as error:
                if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise _not_taken(address, error) from error
            time.sleep(1)

    return submit


def _client(address: str, insecure: bool, warn: Warn) -> Any:
    from ray.job_submission import JobSubmissionClient

    if "://" not in address:
        from sweep.cluster import check_address, found_address, knock

        check_address(address)
        try:
            address = found_address(address)
            knock(address)
        except (OSError, ValueError, OverflowError) as error:
            raise unreachable(address, str(error)) from error
    elif not address.startswith(("http://", "https://")):
        raise CommandError(
            "with --detach an address must be HOST:PORT, auto, or http://HOST:PORT of Ray's "
            f"dashboard, but got {address}",
            exit_code=2,
        )
    check_access(address, insecure=insecure, warn=warn)
    logging.getLogger("ray").setLevel(logging.ERROR)
    os.environ["RAY_API_SERVER_ADDRESS"] = address  # or Ray prefers RAY_ADDRESS to what it is given
    try:
        return JobSubmissionClient(address)
    except Exception as error:
        raise _not_taken(address, error) from error


def _not_taken(address: str, error: Exception) -> CommandError:
    first = str(error).strip().partition("\n")[0]
    if "http://127.0.0.1:" in first and "://" not in address:
        first += (
            " Its dashboard, which takes jobs, is there for its head alone; submit from the head, "
            "or start Ray on it with --dashboard-host=0.0.0.0, which asks for the token there too"
        )
    return CommandError(f"the cluster at {address} must take a job, but: {first}", exit_code=5)
