"""Who proposes: Optuna's samplers by the names that a pipeline gives them, and what each is told."""

from __future__ import annotations

from collections.abc import Callable

import optuna

from gcsearch.schema import SearchSettings


def _tpe(settings: SearchSettings) -> optuna.samplers.BaseSampler:
    # multivariate: rho, beta1 and beta2 are modelled together.  constant_liar: a setting of the same
    # generation that still runs counts as a bad one, so that a generation does not ask one thing many times.
    return optuna.samplers.TPESampler(
        seed=settings.seed,
        n_startup_trials=settings.startup,
        n_ei_candidates=24,
        multivariate=True,
        group=False,
        constant_liar=True,
    )


def _random(settings: SearchSettings) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=settings.seed)


SAMPLERS: dict[str, Callable[[SearchSettings], optuna.samplers.BaseSampler]] = {"tpe": _tpe, "random": _random}
