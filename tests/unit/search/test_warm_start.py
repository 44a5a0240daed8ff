"""Earlier sweeps are known before the first proposal, also where the space has changed since."""

from __future__ import annotations

import math

import pytest

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Outcome, Role, TrialConfig
from gcsearch.driver import session
from gcsearch.errors import InputError
from gcsearch.search import warm_start
from gcsearch.search.proposer import Proposer
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from gcsearch.tracking.tracker import Tracker
from tests.support.bowl import SETTINGS, SPACE, Bowl, Curved, configs, search

EARLIER = search(SETTINGS.model_copy(update={"pruner": "halving", "seed": 7}), evaluate=Curved())


def changed(**parameters):
    table = {name: parameter.to_dict() for name, parameter in SPACE.parameters.items()} | parameters
    return SearchSpace.from_dict(
        {"version": 1, "method": "gcscoop", "parameters": {n: p for n, p in table.items() if p is not None}}
    )


def test_a_record_has_its_place_in_the_same_space():
    for record in EARLIER:
        place = warm_start.encode(SPACE, record)
        assert TrialConfig(method="gcscoop", hyperparameters=SPACE.natural(place)) == record.config
    assert len(Proposer(SPACE, SETTINGS, before=EARLIER).study.trials) == len(EARLIER)


@pytest.mark.parametrize(
    ("space", "fits"),
    [
        (changed(momentum={"low": 0.5, "high": 0.95}), True),  # was the default 0.9, which lies inside
        (changed(momentum={"low": 0.1, "high": 0.5}), False),
        (changed(epochs={"value": 7}), False),
        (changed(epochs=None), False),  # would have the default's epochs now
        (changed(rho={"low": 1e-6, "high": 1e-5, "log": True}), False),
        (
            SearchSpace.from_dict({"version": 1, "method": "sam", "parameters": {"rho": {"low": 0.0, "high": 1.0}}}),
            False,
        ),
    ],
)
def test_a_changed_space_keeps_what_still_means_the_same(space, fits):
    records = [record for record in EARLIER if record.config.hyperparameters["epochs"] != 200]
    assert len(records) > 10
    assert {warm_start.encode(space, record) is not None for record in records} == {fits}


def test_the_study_knows_them_as_what_they_were_and_proposes_otherwise():
    proposer = Proposer(SPACE, SETTINGS.model_copy(update={"pruner": "halving"}), before=EARLIER)
    told = proposer.study.get_trials()[: len(EARLIER)]
    states = {Outcome.COMPLETE: "COMPLETE", Outcome.PRUNED: "PRUNED"}
    assert [trial.state.name for trial in told] == [states[record.outcome] for record in EARLIER]
    assert [trial.value for trial in told if trial.state.name == "COMPLETE"] == [
        record.mean("val_h") for record in EARLIER if record.outcome is Outcome.COMPLETE
    ]
    cold, warm = search(), search(before=EARLIER)
    assert configs(warm)[0] == configs(cold)[0]  # points come first all the same
    assert configs(warm)[1:6] != configs(cold)[1:6]  # the first generation is no blind draw any more


def test_a_warm_search_goes_on_by_replay():
    undisturbed = search(before=EARLIER)
    for cut in (1, 7, 22):
        assert search(before=EARLIER, known=undisturbed[:cut]) == undisturbed


def test_what_failed_or_has_no_finite_number_teaches_nothing():
    failed = EARLIER[0].model_copy(update={"outcome": Outcome.FAILED})
    empty = EARLIER[1].model_copy(update={"metrics": {"val_h": (math.nan,)}})
    assert Proposer(SPACE, SETTINGS, before=[failed, empty]).study.get_trials() == []
    assert warm_start.fitting(SPACE, [failed, EARLIER[2]], ("val_h",)) == [EARLIER[2]]


# Read from the store


def sweep_of(store, name, records, **task):
    sweep = Sweep(name, store, store.sweep(name))
    pipeline = Pipeline.from_dict({"name": name, "task": task})
    files.write_whole(sweep.folder / "pipeline.toml", files.to_toml(pipeline.to_dict()))
    for record in records:
        sweep.journal.append("record", record=record)
    return sweep


def test_records_are_gathered_from_journals_and_counted_where_they_do_not_fit(tmp_path):
    store = Store(tmp_path)
    other = Bowl().record(type("P", (), {"number": 3, "config": EARLIER[3].config}))
    wrong = other.model_copy(update={"number": 4, "config": TrialConfig(method="sam")})
    sweep_of(store, "one", EARLIER)
    sweep_of(store, "two", [other, wrong])
    chosen = Pipeline.from_dict({"name": "new", "search": {"objective": "val_h", "warm_start": ["one", "two"]}})
    fit, skipped = session.gather(chosen, SPACE, store)
    assert configs(fit) == [*configs(EARLIER), other.config.digest]
    assert all(record.curve == () for record in fit)
    assert skipped == 1


def test_an_oracle_that_only_mlflow_has_teaches_what_it_searched(tmp_path):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    tracker = Tracker(uri, "earlier", tmp_path / "artifacts")
    tracker.start_sweep("oracle-1", pipeline=Pipeline.from_dict({"name": "oracle", "search": {"objective": "test_h"}}))
    searched = [
        record.model_copy(update={"stage": "test", "curve": (), "metrics": {"test_h": record.metrics["val_h"]}})
        for record in EARLIER[:3]
    ]
    confirmed = searched[0].model_copy(
        update={"label": "champion", "role": Role.CHAMPION, "seeds": (4,), "metrics": {"test_h": (1.0,)}}
    )
    for record in (*searched, confirmed):
        tracker.log_record(record)
    chosen = Pipeline.from_dict(
        {"name": "new", "search": {"objective": "test_h", "warm_start": ["oracle-1"]}, "tracking": {"uri": uri}}
    )
    fit, skipped = session.gather(chosen, SPACE, Store(tmp_path))
    assert ([record.metrics for record in fit], skipped) == ([record.metrics for record in searched], 0)


def test_sweeps_of_other_tasks_and_unknown_ones_are_refused(tmp_path):
    store = Store(tmp_path)
    sweep_of(store, "other", EARLIER, shots=4)
    for name, message in [("other", "same task only"), ("absent", "absent")]:
        chosen = Pipeline.from_dict(
            {"name": "new", "search": {"warm_start": [name]}, "tracking": {"uri": f"sqlite:///{tmp_path}/mlflow.db"}}
        )
        with pytest.raises(InputError, match=rf"(?s)search\.warm_start\.0: .*{message}"):
            session.gather(chosen, SPACE, store)


def test_a_sweep_that_is_nowhere_is_told_without_making_a_store(tmp_path):
    pipeline = Pipeline.from_dict({"name": "late", "search": {"warm_start": ["absent"]}})
    with pytest.raises(InputError, match=r"search\.warm_start\.0: there is no sweep of this name"):
        session.gather(pipeline, SPACE, Store(tmp_path))
    assert not list(tmp_path.iterdir())
