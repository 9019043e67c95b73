"""The sampler that proposes one trial, seeded by the trial's number."""

import io
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial

from search_spaces import SweepConfig
from sweep.errors import CommandError


def sampler_for(config: SweepConfig, number: int) -> optuna.samplers.BaseSampler:
    """The sampler for one trial, so that a proposal is a function of the ledger alone."""
    seed = int(np.random.SeedSequence([config.search.seed, number]).generate_state(1)[0])
    if config.search.algorithm == "tpe":
        with warnings.catch_warnings():
            # Modelling a family's parameters together, family by family, is marked experimental.
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, seed=seed
            )
    if config.search.algorithm == "cmaes":
        return _CmaEs(seed=seed)
    return optuna.samplers.RandomSampler(seed=seed)


class _CmaEs(optuna.samplers.CmaEsSampler):
    """Optuna's, which keeps its optimizer pickled in the study, and would run what it finds."""

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        prefix = self._attr_key_optimizer
        for trial in reversed(completed_trials):
            parts = [key for key in trial.system_attrs if key.startswith(prefix)]
            if parts:
                texts = (trial.system_attrs[f"{prefix}:{i}"] for i in range(len(parts)))
                return _Optimizer(io.BytesIO(bytes.fromhex("".join(texts)))).load()
        return None


class _Optimizer(pickle.Unpickler):
    """Reads a pickled CMA-ES optimizer, which consists of these alone."""

    _parts = frozenset(
        {
            ("cmaes._cma", "CMA"),
            ("numpy", "dtype"),
            ("numpy", "ndarray"),
            ("numpy._core.multiarray", "scalar"),
            ("numpy._core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
        }
    )

    def find_class(self, module_name: str, global_name: str) -> Any:
        """One of the parts; CommandError for anything else."""
        if (module_name, global_name) not in self._parts:
            raise CommandError(
                "the study must hold the state of CMA-ES alone, but it holds "
                f"{module_name}.{global_name}; restore it from a backup"
            )
        return super().find_class(module_name, global_name)
