"""What the MLflow UI shows of a sweep at first: its runs, and the columns worth reading.

The UI keeps its columns in the browser; what it takes from outside is a *shared view*: a tag of the
experiment, named by the address (read in MLflow 3.17's pages; there is no other way in).
"""

import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

from search_spaces import SweepConfig, free_parameters, parse_config

_MOST_PARAMETERS = 6  # a row that is read at a glance
_REQUEST_S = 10.0


def view_address(experiment_id: str, name: str) -> str:
    """The path of the page that shows an experiment's runs as the sweep `name` likes them."""
    page = f"/#/experiments/{experiment_id}/runs?viewStateShareKey={_key(name)}"
    return f"{page}&workflowType=machine_learning"


def share_view(address: str, experiment_id: str, directory: Path) -> None:
    """Tell the server at `address` how to show the sweep in `directory`."""
    config = parse_config((directory / "config.yaml").read_text())
    tag = {
        "experiment_id": experiment_id,
        "key": f"mlflow.sharedViewState.{_key(directory.name)}",
        "value": json.dumps(view(config)),
    }
    ask(f"{address}/api/2.0/mlflow/experiments/set-experiment-tag", tag)


def view(config: SweepConfig) -> dict[str, Any]:
    """The state of the UI's table of runs: newest first, children under their sweep's run."""
    metric = config.search.metric
    columns = [
        *(("tags", key) for key in ("state", "family")),
        *(("metrics", key) for key in (metric, f"best_{metric}", "epoch")),
        *(("params", key) for key in _common_parameters(config)),
    ]
    chosen = [f"{kind}.`{key}`" for kind, key in columns]
    widths = {f"{kind}.`{key}`": 40 + 8 * len(key) for kind, key in columns}
    widths |= {"attributes.`Run Name`": 320, "runDateAndNestInfo": 150}
    widths |= {"tags.`state`": 105, "tags.`family`": 160}
    return {
        "searchFilter": "",
        "orderByKey": "attributes.start_time",  # any other order takes children from their parents
        "orderByAsc": False,
        "selectedColumns": chosen,
        "columnOrder": ["attributes.`Run Name`", "runDateAndNestInfo", *chosen, "duration"],
        "columnWidths": widths,
    }


def _common_parameters(config: SweepConfig) -> list[str]:
    """The free parameters that most families have; a name is its last part."""
    weights: Counter[str] = Counter()
    for name in set(free_parameters(config)) - {"schedule"}:
        of_family = name.startswith("schedule.")
        weights[name.split(".", 2)[-1]] += 1 if of_family else len(config.space.schedule)
    return sorted(weights, key=lambda name: (-weights[name], name))[:_MOST_PARAMETERS]


def _key(name: str) -> str:
    return f"sweep.{name}"


def ask(url: str, body: object = None) -> bytes | None:
    """What a server on this machine answers, posted to if there is a body; None: it does not."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # never by a proxy
    try:
        with opener.open(request, timeout=_REQUEST_S) as answer:
            return answer.read()
    except (OSError, urllib.error.URLError):
        return None
