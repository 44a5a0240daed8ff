"""A study between two generations in JSON, so that whoever goes on need not ask for all of its trials again.

Parameters and values of its trials are not all that a study goes by: its sampler has random generators, and some
samplers note things on trials, on the study or in themselves.  `_MEMORIES` says what that is, as Optuna's source has
it; the tests hold every sampler to proposing what it would have proposed.  A sampler that is not named there, or that
another version of Optuna has changed, goes on by replay.
"""

from __future__ import annotations

import base64
import operator
import pickle
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from gcsearch.config.trials import GeneratorState, StudyState

Attributes = dict[str, Any]


class Told(NamedTuple):
    """What a study is told of a trial. `values` of a pruned one: the last of its `curve`, which is by step."""

    state: TrialState
    values: list[float] | None = None
    curve: Mapping[int, float] = {}
    attributes: Mapping[str, Any] = {}


def added(
    told: Told, params: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], **noted: Any
) -> FrozenTrial:
    """A trial that was told already, for `Study.add_trial`. `noted`: what the sampler noted on it."""
    return create_trial(
        state=told.state,
        values=told.values,
        params=dict(params),
        distributions=dict(distributions),
        intermediate_values=dict(told.curve),
        user_attrs=dict(told.attributes),
        system_attrs=noted,
    )


@dataclass(frozen=True)
class Memory:
    """What a sampler goes by beside parameters and values: `generators`, its attributes that draw, and its notes.

    `on_trials`: what it notes on each of them. `on_study`: how the names of its notes there begin, of which the last
    two count.
    """

    generators: tuple[str, ...]
    on_trials: tuple[str, ...] = ()
    on_study: str = ""

    def drawing(self, sampler: Any) -> dict[str, np.random.RandomState]:
        """AttributeError where this version of Optuna keeps them elsewhere."""
        return {name: operator.attrgetter(name)(sampler).rng for name in self.generators}

    def fits(self, state: StudyState, distributions: Mapping[str, BaseDistribution]) -> bool:
        """Whether `state` is one of a study of this kind."""
        return state.params.keys() == distributions.keys() and state.generators.keys() == set(self.generators)

    def model(self, study: optuna.Study) -> Any:
        """What the sampler has fitted, as JSON; None where it fits everything anew."""
        return None

    def restore_model(self, sampler: Any, model: Any) -> Attributes:
        """Give the sampler back what it had fitted; what it looks for on the last trial that ended well."""
        return {}


class _Gaussian(Memory):
    """A Gaussian process is fitted from where the last one of each objective ended."""

    def model(self, study: optuna.Study) -> Any:
        sampler: Any = study.sampler
        return [
            [one.inverse_squared_lengthscales.tolist(), one.kernel_scale.item(), one.noise_var.item()]
            for one in sampler._gprs_cache_list or ()
        ]

    def restore_model(self, sampler: Any, model: Any) -> Attributes:
        import torch

        names = ("inverse_squared_lengthscales", "kernel_scale", "noise_var")
        tensors = [[torch.tensor(value, dtype=torch.float64) for value in kernel] for kernel in model]
        sampler._gprs_cache_list = [SimpleNamespace(**dict(zip(names, one, strict=True))) for one in tensors] or None
        return {}


class _Evolution(Memory):
    """CMA-ES keeps its optimizer, pickled, on trials.

    No pickle is read from a file here: the optimizer's own state goes into the file, and it is pickled anew.
    """

    def model(self, study: optuna.Study) -> Any:
        sampler: Any = study.sampler
        optimizer = sampler._restore_optimizer(sampler._get_trials(study))
        state = optimizer.__getstate__() if optimizer else {}
        return {name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in state.items()}

    def restore_model(self, sampler: Any, model: Any) -> Attributes:
        import cmaes

        if not model:
            return {}
        optimizer = cmaes.CMA.__new__(cmaes.CMA)
        optimizer.__setstate__({name: np.array(v) if isinstance(v, list) else v for name, v in model.items()})
        pickled: Attributes = sampler._split_optimizer_str(pickle.dumps(optimizer).hex())
        return pickled


_MEMORIES = {
    "tpe": Memory(("_rng", "_random_sampler._rng")),
    "gp": _Gaussian(("_rng", "_independent_sampler._rng")),
    "cmaes": _Evolution(("_cma_rng", "_independent_sampler._rng"), on_trials=("cma:generation",)),
    "nsga2": Memory(
        ("_rng", "_random_sampler._rng"), on_trials=("NSGAIISampler:generation",), on_study="NSGAIISampler:parent:"
    ),
    "nsga3": Memory(
        ("_rng", "_random_sampler._rng"), on_trials=("NSGAIIISampler:generation",), on_study="NSGAIIISampler:parent:"
    ),
    "qmc": Memory(("_independent_sampler._rng",), on_study="qmc:"),
    "random": Memory(("_rng",)),
    "grid": Memory(("_rng",)),
}


def memory(sampler: str, study: optuna.Study) -> Memory | None:
    """What the sampler of `study`, which has this name in a pipeline, goes by; None where that is not known."""
    known = _MEMORIES.get(sampler)
    try:
        return known if known and known.drawing(study.sampler) else None
    except AttributeError:
        return None


def take(study: optuna.Study, memory: Memory, trials: Sequence[FrozenTrial], first: int) -> StudyState:
    """The study as it is now, with those of its numbered `trials` from number `first` on."""
    ours = trials[first:]
    noted = list(study._storage.get_study_system_attrs(study._study_id).items())
    notes = [(name, value) for name, value in noted if memory.on_study and name.startswith(memory.on_study)]
    return StudyState(
        first=first,
        told=len(trials),
        params={name: tuple(trial.params[name] for trial in ours) for name in (ours[0].params if ours else ())},
        on_trials={name: tuple(trial.system_attrs.get(name) for trial in ours) for name in memory.on_trials},
        on_study=dict(notes[-2:]),
        generators={name: _state(rng) for name, rng in memory.drawing(study.sampler).items()},
        model=memory.model(study),
    )


def _state(generator: np.random.RandomState) -> GeneratorState:
    _, key, position, has_gauss, gauss = generator.get_state(legacy=True)
    packed = base64.b64encode(np.asarray(key, "<u4").tobytes()).decode()
    return GeneratorState(key=packed, position=int(position), has_gauss=int(has_gauss), gauss=float(gauss))


class KnownStates:
    """All states that were kept of a study, which together say how it was at each of them."""

    def __init__(self, states: Iterable[StudyState]) -> None:
        self._at: dict[int, StudyState] = {}
        self.params: dict[int, dict[str, Any]] = {}
        self._noted: dict[int, Attributes] = {}
        for state in states:
            self._at[state.told] = state
            for index, number in enumerate(range(state.first, state.told)):
                self.params[number] = {name: values[index] for name, values in state.params.items()}
                self._noted[number] = {name: values[index] for name, values in state.on_trials.items()}

    def last(self, among: Container[int]) -> StudyState | None:
        """The one at which most trials had been told, as many as one of the numbers `among`; None without any."""
        whole = next(number for number in range(len(self.params) + 1) if number not in self.params)
        return self._at.get(max((told for told in self._at if told in among and told <= whole), default=-1))

    def restore(
        self,
        study: optuna.Study,
        memory: Memory,
        state: StudyState,
        answers: Sequence[Told],
        distributions: Mapping[str, BaseDistribution],
    ) -> None:
        """Make a study without trials of its own what it was at `state`; `answers` is what it was told of each."""
        fitted = memory.restore_model(study.sampler, state.model)
        ended_well = [number for number, told in enumerate(answers) if told.state is TrialState.COMPLETE]
        ended_well = ended_well or [number for number, told in enumerate(answers) if told.state is TrialState.PRUNED]
        for number, told in enumerate(answers):
            noted = {name: value for name, value in self._noted[number].items() if value is not None}
            if number == max(ended_well, default=-1):
                noted |= fitted
            study.add_trial(added(told, self.params[number], distributions, **noted))
        for name, value in state.on_study.items():
            study._storage.set_study_system_attr(study._study_id, name, value)
        for name, generator in memory.drawing(study.sampler).items():
            kept = state.generators[name]
            key = np.frombuffer(base64.b64decode(kept.key), "<u4")
            generator.set_state(("MT19937", key, kept.position, kept.has_gauss, kept.gauss))
