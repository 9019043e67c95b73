"""The figure of how much each parameter decided the result."""

from collections import Counter
from collections.abc import Mapping, Sequence

import optuna
import plotly.graph_objects as go

from search_spaces import Choice, Distribution, IntUniform
from sweep.figure_parts import FAMILY_COLOURS, Spec, annotation, axis, empty, figure, finite
from sweep.parameter_columns import columns_of, ends_of, free_names, is_choice, is_log, label_of
from sweep.records import SweepRecord, TrialRecord

_LEAST = 10  # complete trials from which an importance is worth telling


def importances(sweep: SweepRecord, trials: Sequence[TrialRecord]) -> go.Figure:
    """How much each parameter decided the result, of trials that trained to their end."""
    complete = [t for t in trials if t.state == "complete" and t.value is not None]
    title = f"Importance of the parameters (full-length trials: {len(complete)})"
    values = finite(trial.value for trial in complete)
    if not columns_of(sweep):
        return empty(title, "this sweep has no free parameter")
    if len(complete) < _LEAST:
        return empty(title, f"needs more trials: {_LEAST} full-length ones, got {len(complete)}")
    if values.min() == values.max():
        return empty(title, "needs more trials: all full-length ones came to the same value")
    groups = {"all families": complete} if len(free_names(sweep)) > 1 else {}
    counts = Counter(trial.parameters["schedule"] for trial in complete)
    for family, count in counts.most_common():
        if count >= _LEAST and len(groups) < 4:
            own = [trial for trial in complete if trial.parameters["schedule"] == family]
            groups[f"{family} ({count})"] = own
    bars = {name: shares for name, own in groups.items() if (shares := _shares(sweep, own))}
    if not bars:
        return empty(title, "needs more trials: the full-length ones share no free parameter")
    return _bars(bars, title)


def _shares(sweep: SweepRecord, complete: Sequence[TrialRecord]) -> dict[str, float]:
    """The importance of each parameter that all these trials chose; together 1, or none."""
    names = free_names(sweep)
    found = list(dict.fromkeys(trial.parameters["schedule"] for trial in complete))
    common = set[str].intersection(*(set(names.get(family, {})) for family in found))
    columns: dict[str, optuna.distributions.BaseDistribution] = {}
    for name in sorted(common):
        merged = _merged([names[family][name] for family in found])
        if merged is not None:
            columns[name] = merged
    if len(found) > 1:
        columns["schedule"] = optuna.distributions.CategoricalDistribution(found)
    values = finite(trial.value for trial in complete)
    if not columns or values.min() == values.max():
        return {}
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        direction=sweep.config.search.goal, storage=optuna.storages.InMemoryStorage()
    )
    for trial in complete:
        params = {name: trial.parameters[name] for name in columns}
        study.add_trial(
            optuna.trial.create_trial(params=params, distributions=columns, value=trial.value)
        )
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in shares.items()}


def _merged(
    spreads: Sequence[Distribution],
) -> optuna.distributions.BaseDistribution | None:
    """One distribution that holds what each of these can give; None where there is none."""
    if is_choice(spreads):
        options = dict.fromkeys(o for s in spreads if isinstance(s, Choice) for o in s.options)
        every = all(isinstance(spread, Choice) for spread in spreads)
        return optuna.distributions.CategoricalDistribution(list(options)) if every else None
    low, high = ends_of(spreads)
    if all(isinstance(spread, IntUniform) for spread in spreads):
        return optuna.distributions.IntDistribution(int(low), int(high))
    log = is_log(spreads) and low > 0
    return optuna.distributions.FloatDistribution(float(low), float(high), log=log)


def _bars(bars: Mapping[str, Mapping[str, float]], title: str) -> go.Figure:
    """A panel of bars for each group of trials, the most important parameter on top."""
    sizes = [max(len(shares), 2) for shares in bars.values()]
    height = 90 + 75 * len(bars) + 26 * sum(sizes)
    gap = 75 / (height - 120) if len(bars) > 1 else 0.0
    room = 1 - gap * (len(bars) - 1)
    data: list[Spec] = []
    layout: Spec = {"annotations": [], "showlegend": False}
    top = 1.0
    for index, (group, shares) in enumerate(bars.items()):
        number = "" if index == 0 else str(index + 1)
        bottom = max(top - room * sizes[index] / sum(sizes), 0.0)
        names = list(shares)[::-1]
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "x": [round(shares[name], 4) for name in names],
                "y": [label_of(name) for name in names],
                "xaxis": f"x{number}",
                "yaxis": f"y{number}",
                "marker": {"color": FAMILY_COLOURS[0]},
                "hovertemplate": "%{y}: %{x:.1%}<extra></extra>",
                "name": group,
            }
        )
        last = index == len(bars) - 1
        level = axis("importance (share of 1)" if last else "", range=[0, 1])
        layout[f"xaxis{number}"] = level | {"anchor": f"y{number}", "showticklabels": last}
        upright = axis("parameter", domain=[bottom, top], anchor=f"x{number}")
        layout[f"yaxis{number}"] = upright | {"gridcolor": "rgba(0,0,0,0)"}
        heading = annotation(f"<b>{group}</b>", x=0, y=top, xanchor="left", yanchor="bottom")
        layout["annotations"].append(heading)
        top = bottom - gap
    text = f"one family alone is shown from {_LEAST} full-length trials on"
    note = annotation(text, x=1, y=1, xanchor="right", yanchor="bottom")
    layout["annotations"].append(note)
    margin = {"l": 120, "r": 30, "t": 80, "b": 60}
    return figure(data, title, height=height, margin=margin, **layout)
