"""The search: proposals that depend on seed and results alone, and a Ray that leaves nothing behind."""

import json
import logging
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import ray
import torch
from ray.tune.search import Searcher

from gcsearch.errors import InputError, RunError
from gcsearch.schema import EpochReport, Outcome, Proposal, Resources, SearchSettings, TrialRecord
from gcsearch.search import SAMPLERS, PackSearcher, Placement, place, run_search, run_settings, session
from gcsearch.spaces import SearchSpace, load

SPACE = load("gcscoop")
SETTINGS = SearchSettings(trials=22, pack=3, generation=2, startup=5, seed=1)

# Worker processes do not have this folder on their path: send what is defined here along with the objects.
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Bowl:
    """A stand-in objective: a smooth function of the setting, slightly different for each of two seeds."""

    def __call__(self, proposals: list[Proposal], report: Callable) -> list[TrialRecord]:
        records = []
        for proposal in proposals:
            report([EpochReport(number=proposal.number, epoch=1, metrics={"loss": (1.0, 1.0)})])
            records.append(self.record(proposal))
        return records

    def record(self, proposal: Proposal) -> TrialRecord:
        value = self.value(**proposal.config.hyperparameters)
        return TrialRecord(
            number=proposal.number,
            config=proposal.config,
            stage="search",
            outcome=self.outcome(proposal),
            seeds=(1, 2),
            epochs=proposal.config.hyperparameters["epochs"],
            metrics={"val_h": (value - 1, value + 1)},
            worker=str(os.getpid()),
        )

    def value(self, rho, beta1, beta2, lr, epochs) -> float:
        lower = -0.1 if beta1 == "off" else beta1
        bowl = (math.log10(rho + 0.01) + 1) ** 2 + (math.log10(lr) + 2.5) ** 2 + (lower - 0.3) ** 2
        return 80 - 5 * bowl - (beta2 - 0.7) ** 2 - abs(math.log(epochs / 60))

    def outcome(self, proposal: Proposal) -> Outcome:
        return Outcome.COMPLETE


def drive(searcher: PackSearcher, evaluate=None, *, backwards: bool = False) -> list[TrialRecord]:
    """What Tune does, without Ray: take packs until there are none, then end them in some order."""
    evaluate = evaluate or Bowl()
    names = iter(range(10**6))
    while True:
        open_packs = {}
        while isinstance(config := searcher.suggest(name := f"t{next(names)}"), dict):
            open_packs[name] = [Proposal.from_dict(p) for p in json.loads(config["pack"])]
        if not open_packs:
            assert config == Searcher.FINISHED
            return searcher.records
        for name in list(open_packs)[:: -1 if backwards else 1]:
            records = evaluate(open_packs[name], lambda reports: None)
            searcher.on_trial_result(name, {"records": [record.to_dict() for record in records]})
            assert searcher.suggest("too early") is None
            searcher.on_trial_complete(name)


def search(settings=SETTINGS, space=SPACE, evaluate=None, backwards=False, **options) -> list[TrialRecord]:
    return drive(PackSearcher(space, settings, **options), evaluate, backwards=backwards)


def configs(records: list[TrialRecord]) -> list[str]:
    return [record.config.digest for record in records]


# What is proposed


def test_points_come_first_and_then_exactly_as_many_as_asked_for():
    asked = []
    records = search(on_proposal=lambda proposal, label: asked.append((proposal.number, label)))
    assert [record.number for record in records] == list(range(22))
    assert asked == [(0, "literature"), *[(n, "") for n in range(1, 22)]]
    assert records[0].config.hyperparameters == SPACE.points[0].values
    assert [record.label for record in records[:2]] == ["literature", ""]


def test_the_last_generation_and_its_last_pack_are_smaller():
    sizes = []
    search(SETTINGS.model_copy(update={"trials": 11}), evaluate=lambda p, r: sizes.append(len(p)) or Bowl()(p, r))
    assert sizes == [3, 3, 3, 2]


def test_every_proposal_keeps_beta1_below_beta2():
    for record in search(SETTINGS.model_copy(update={"trials": 60})):
        beta1, beta2 = (record.config.hyperparameters[name] for name in ("beta1", "beta2"))
        assert beta1 == "off" or beta1 <= beta2


def test_the_joint_model_keeps_every_box():
    searcher = PackSearcher(SPACE, SETTINGS)
    drive(searcher)
    boxes = set(SPACE.distributions())
    trials = searcher.study.get_trials()
    assert all(set(trial.params) == boxes for trial in trials)
    # After the generation that fills the startup, all boxes are drawn from the multivariate model.
    assert all(set(json.loads(trial.system_attrs["tpe:relative_params:0"])) == boxes for trial in trials[6:])


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_seed_repeats_the_sequence_and_another_does_not(sampler):
    settings = SETTINGS.model_copy(update={"sampler": sampler})
    first = search(settings)
    assert search(settings) == first
    assert search(settings, backwards=True) == first
    assert configs(search(settings.model_copy(update={"seed": 2})))[1:] != configs(first)[1:]


def test_results_matter_to_what_is_proposed_later():
    class Slope(Bowl):
        def value(self, rho, **others):
            return rho

    first, other = search(), search(evaluate=Slope())
    assert configs(first)[:6] == configs(other)[:6]
    assert configs(first)[6:] != configs(other)[6:]


def test_a_space_with_nothing_to_search_is_one_trial():
    space = SearchSpace.from_dict({"version": 1, "method": "zeroshot"})
    searcher = PackSearcher(space, SETTINGS)
    pack = json.loads(searcher.suggest("t")["pack"])
    assert pack == [{"number": 0, "config": {"method": "zeroshot", "hyperparameters": {}}}]
    searcher.on_trial_complete("t")
    assert searcher.suggest("u") == Searcher.FINISHED


# What the study is told


class Mixed(Bowl):
    """Number 1 is pruned, 2 diverges, 3 fails, 4 comes back without a finite number."""

    def outcome(self, proposal):
        kinds = {1: Outcome.PRUNED, 2: Outcome.DIVERGED, 3: Outcome.FAILED}
        return kinds.get(proposal.number, Outcome.COMPLETE)

    def record(self, proposal):
        record = super().record(proposal)
        bad = {"metrics": {"val_h": (math.nan, 1.0)}} if proposal.number == 4 else {}
        return record.model_copy(update=bad | {"reason": "why" if proposal.number in (2, 3) else ""})


def test_outcomes_are_told_as_they_are():
    searcher = PackSearcher(SPACE, SETTINGS.model_copy(update={"trials": 6}))
    records = drive(searcher, Mixed())
    told = searcher.study.get_trials()
    assert [trial.user_attrs["number"] for trial in told] == list(range(6))
    state = optuna.trial.TrialState
    assert [trial.state for trial in told] == [
        state.COMPLETE, state.PRUNED, state.FAIL, state.FAIL, state.FAIL, state.COMPLETE,
    ]  # fmt: skip
    assert told[0].value == records[0].mean("val_h")
    assert told[1].intermediate_values == {records[1].epochs: records[1].mean("val_h")}
    reasons = [trial.user_attrs["reason"] for trial in told[2:5]]
    assert reasons == ["diverged: why", "failed: why", "complete: val_h is nan"]


def test_a_pack_that_leaves_no_record_failed_for_the_cause_that_was_heard():
    searcher = PackSearcher(SPACE, SETTINGS.model_copy(update={"trials": 3}))
    searcher.suggest("t")
    searcher.on_worker_death("t", "out of memory")
    searcher.on_trial_complete("t", error=True)
    assert [record.outcome for record in searcher.records] == [Outcome.FAILED] * 3
    assert searcher.records[0].reason == "the worker process ended (tries: 1): out of memory"


def test_what_a_callback_raises_ends_the_search():
    def full(record: TrialRecord) -> None:
        raise RunError("the disk is full")

    with pytest.raises(RunError, match="disk is full"):
        search(on_record=full)
    searcher = PackSearcher(SPACE, SETTINGS, on_record=full)
    searcher.suggest("t")
    searcher.on_trial_complete("t", error=True)
    with pytest.raises(RunError, match="disk is full"):
        searcher.suggest("u")


# Going on with a sweep


def run_again(known: list[TrialRecord], settings=SETTINGS, evaluate=None) -> tuple[list[TrialRecord], list[int]]:
    """The records of a session that knows some already, and the numbers that it ran."""
    ran: list[int] = []
    evaluate = evaluate or Bowl()

    def counting(proposals, report):
        ran.extend(proposal.number for proposal in proposals)
        return evaluate(proposals, report)

    return search(settings, known=known, evaluate=counting), ran


@pytest.mark.parametrize("cut", [0, 1, 5, 6, 14, 22])
def test_an_interrupted_sweep_goes_on_as_if_nothing_had_happened(cut):
    undisturbed = search()
    records, ran = run_again(undisturbed[:cut])
    assert records == undisturbed
    assert ran == list(range(cut, 22))


def test_records_count_in_whatever_order_a_generation_ended():
    undisturbed = search()
    shuffled = [undisturbed[n] for n in (3, 4, 5, 1, 0, 2, 8, 6)]
    records, ran = run_again(shuffled)
    assert records == undisturbed
    assert ran == [7, *range(9, 22)]


def test_failed_settings_are_tried_again_before_anything_is_proposed_from_them():
    undisturbed = search()
    failed = undisturbed[1].model_copy(update={"outcome": Outcome.FAILED})
    records, ran = run_again([undisturbed[0], failed, *undisturbed[2:6]])
    assert records == undisturbed
    assert ran == [1, *range(6, 22)]


def test_failed_settings_that_others_were_proposed_from_are_mended_without_changing_history():
    first = search(evaluate=Mixed())
    assert first[3].outcome is Outcome.FAILED
    journal = list(first)
    records, ran = run_again(journal)
    assert ran == [3]
    assert configs(records) == configs(first)
    assert records[3].outcome is Outcome.COMPLETE
    journal.append(records[3])
    assert run_again(journal) == (records, [])


def test_mending_and_going_on_happen_together():
    undisturbed = search(evaluate=Mixed())
    records, ran = run_again(undisturbed[:12])
    assert configs(records) == configs(undisturbed)
    assert sorted(ran) == [3, *range(12, 22)]
    journal = [*undisturbed[:12], *(records[n] for n in (12, 3, *range(13, 18)))]
    again, ran = run_again(journal)
    assert again == records
    assert ran == list(range(18, 22))


def test_a_finished_sweep_is_extended_without_repeating_anything():
    short = SETTINGS.model_copy(update={"trials": 10})
    longer, ran = run_again(search(short))
    assert ran == list(range(10, 22))
    assert longer == search()


@pytest.mark.parametrize(
    ("change", "words"),
    [({"seed": 5}, "number 1 was"), ({"pack": 5}, "is proposed now"), ({"sampler": "random"}, "number 6 was")],
)
def test_records_of_another_sweep_are_refused(change, words):
    with pytest.raises(RunError, match=f"do not follow from its settings.*{words}"):
        run_again(search(), SETTINGS.model_copy(update=change))


def test_a_gap_in_the_records_is_refused():
    records = search()
    with pytest.raises(RunError, match="settings after number 2 have records, but it has none"):
        run_again([record for record in records if record.number != 2])


# Where it runs


@pytest.mark.parametrize(
    ("resources", "cores", "gpus", "generation", "placement"),
    [
        ({}, 2, 0, 2, Placement(2, 1, 0)),
        ({}, 8, 0, 2, Placement(2, 4, 0)),
        ({}, 8, 0, 1, Placement(1, 8, 0)),
        ({}, 3, 0, 8, Placement(3, 1, 0)),
        ({}, 1, 0, 4, Placement(1, 1, 0)),
        ({"workers": 3}, 8, 0, 2, Placement(3, 2, 0)),
        ({"workers": 4}, 2, 0, 2, Placement(4, 1, 0)),
        ({"threads": 4}, 8, 0, 4, Placement(2, 4, 0)),
        ({"threads": 16}, 8, 0, 4, Placement(1, 16, 0)),
        ({}, 8, 1, 2, Placement(2, 4, 0.5)),
        ({}, 8, 1, 3, Placement(3, 2, 0.3333)),
        ({}, 16, 2, 3, Placement(3, 5, 0.5)),
        ({}, 16, 4, 2, Placement(2, 8, 1)),
        ({"gpus_per_worker": 0}, 8, 1, 2, Placement(2, 4, 0)),
        ({"gpus_per_worker": 0.333}, 8, 1, 2, Placement(2, 4, 0.3333)),
        ({"gpus_per_worker": 2}, 8, 2, 1, Placement(1, 8, 2)),
    ],
)
def test_place(resources, cores, gpus, generation, placement):
    assert place(Resources(**resources), cores=cores, gpus=gpus, generation=generation) == placement


@pytest.mark.parametrize("sharers", range(1, 30))
def test_the_shares_of_a_gpu_fit_into_it(sharers):
    share = place(Resources(), cores=64, gpus=1, generation=sharers).gpus_per_worker
    assert round(share * 1e4) * sharers <= 10_000 < round(share * 1e4) * (sharers + 1)


@pytest.mark.parametrize(
    ("share", "gpus", "words"),
    [(0.7, 1, "must divide 1, got 0.7"), (1.5, 2, "whole number"), (0.5, 0, "has 0 GPUs"), (4, 2, "has 2 GPUs")],
)
def test_an_impossible_share_is_refused(share, gpus, words):
    with pytest.raises(InputError, match=f"resources.gpus_per_worker: .*{words}"):
        place(Resources(gpus_per_worker=share), cores=8, gpus=gpus, generation=2)


# With a real Ray


@pytest.fixture(scope="module")
def local_ray():
    """One Ray for all searches of this file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(
            address="local",
            num_cpus=2,
            num_gpus=0,
            object_store_memory=200 * 1024**2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
        yield
        ray.shutdown()


class FirstIsLast(Bowl):
    """The first pack of each generation takes longest. Records say how many threads there were."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, proposals, report):
        first = proposals[0].number
        (self.folder / f"begun-{first}").touch()
        while first < 6 and len(list(self.folder.glob("begun-*"))) < 2:
            time.sleep(0.05)  # or a quick first worker does it all while the second one still starts
        time.sleep(0.6 if first % 6 == 0 else 0)
        return super().__call__(proposals, report)

    def record(self, proposal):
        threads = f"{torch.get_num_threads()} {os.environ['OMP_NUM_THREADS']}"
        return super().record(proposal).model_copy(update={"reason": threads})


def test_two_workers_in_any_order_do_what_one_does_and_say_nothing(local_ray, tmp_path, capfd):
    ended, heard = [], []
    records = run_search(
        SPACE,
        SETTINGS,
        Placement(workers=2, threads=1),
        FirstIsLast(tmp_path),
        folder=tmp_path,
        on_reports=lambda reports: heard.append((reports[0].number, len(ended))),
        on_record=lambda record: ended.append(record.number),
    )
    own = {"worker": "", "reason": ""}
    assert [r.model_copy(update=own) for r in records] == [r.model_copy(update=own) for r in search()]
    assert ended[:6] == [3, 4, 5, 0, 1, 2]
    assert sorted(number for number, _ in heard) == list(range(22))
    assert all(number not in ended[:before] for number, before in heard)  # while the setting ran
    assert len({record.worker for record in records}) == 2  # kept from generation to generation
    assert {record.reason for record in records} == {"1 1"}
    assert capfd.readouterr() == ("", "")


class Accidents(Bowl):
    """Number 1 raises, number 2 loses its process once, number 3 always."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, proposals, report):
        (proposal,) = proposals
        tries = self.folder / str(proposal.number)
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        if proposal.number == 1:
            raise ValueError("no such thing")
        if proposal.number == 3 or (proposal.number == 2 and tries.read_text() == "x"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(proposals, report)


def test_accidents_cost_no_more_than_what_they_hit(local_ray, tmp_path, caplog):
    settings = SETTINGS.model_copy(update={"trials": 5, "pack": 1, "generation": 4})
    records = run_search(SPACE, settings, Placement(2, 1), Accidents(tmp_path), folder=tmp_path)
    assert [record.outcome for record in records] == ["complete", "failed", "complete", "failed", "complete"]
    assert records[1].reason.startswith("ValueError: no such thing\n")
    assert "in __call__" in records[1].reason
    assert records[3].reason.startswith("the worker process ended (tries: 3): The actor died unexpectedly")
    assert [len((tmp_path / str(n)).read_text()) for n in range(5)] == [1, 1, 2, 3, 1]
    warnings = [entry for entry in caplog.records if entry.name == "gcsearch.search"]
    assert [entry.levelname for entry in warnings] == ["WARNING"] * 4
    assert any("of the settings 2 ended" in entry.getMessage() for entry in warnings)


def test_given_settings_run_one_by_one_and_come_back_in_their_order(local_ray, tmp_path):
    numbers = (4, 1, 2, 0)  # 1 raises, 2 loses its process once
    wanted = [Proposal(number=number, config=search()[number].config) for number in numbers]
    heard = []
    records = run_settings(wanted, Placement(2, 1), Accidents(tmp_path), stage="test", on_record=heard.append)
    assert [record.number for record in records] == list(numbers)
    assert [record.outcome for record in records] == ["complete", "failed", "complete", "complete"]
    assert "no such thing" in records[1].reason
    assert sorted(heard, key=lambda record: record.number) == sorted(records, key=lambda record: record.number)


def test_what_ray_would_print_is_logged_while_a_session_is_open(local_ray, capsys, caplog):
    message = {"lines": ["a worker died"], "pid": "raylet", "is_err": False}
    with caplog.at_level(logging.INFO, "gcsearch.search"), session(Placement(1, 1)):
        ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["ray: a worker died"]
    ray._private.worker.print_to_stdstream(message, ignore_prefix=False)
    assert "a worker died" in capsys.readouterr().out


def test_a_session_puts_everything_back(local_ray):
    def state():
        handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
        return dict(os.environ), handlers, logging.getLogger("ray").level

    before = state()
    with session(Placement(1, 1)):
        assert state() != before
    assert state() == before
    assert ray.is_initialized()


def test_what_a_callback_raises_comes_out_of_a_running_search(local_ray, tmp_path):
    class Full(Exception):
        pass

    def full(record: TrialRecord) -> None:
        raise Full("no space left")

    with pytest.raises(Full, match="no space left"):
        run_search(SPACE, SETTINGS, Placement(1, 1), Bowl(), folder=tmp_path, on_record=full)


def test_a_worker_that_ray_can_never_place_is_refused(local_ray, tmp_path):
    with pytest.raises(RunError, match="A worker needs 3 CPU, but Ray has 2 in all"):
        run_search(SPACE, SETTINGS, Placement(1, 3), Bowl(), folder=tmp_path)


def test_a_finished_sweep_needs_no_worker(tmp_path):
    records = search()
    assert run_search(SPACE, SETTINGS, Placement(1, 1), None, folder=tmp_path, known=records) == records


INTERRUPTED = """
import signal, sys, time
from pathlib import Path
import ray
from gcsearch.schema import SearchSettings
from gcsearch.search import Placement, run_search
from gcsearch.spaces import load

class Terminated(BaseException):
    pass

def terminate(number, frame):
    raise Terminated

class Forever:
    def __init__(self, folder):
        self.folder = folder
    def __call__(self, proposals, report):
        (self.folder / f"at-work-{proposals[0].number}").touch()
        time.sleep(600)

folder = Path(sys.argv[1])
signal.signal(signal.SIGTERM, terminate)
try:
    run_search(load("gcscoop"), SearchSettings(), Placement(2, 1), Forever(folder), folder=folder)
except (KeyboardInterrupt, Terminated) as error:
    assert signal.getsignal(signal.SIGTERM) is terminate
    print(type(error).__name__, ray.is_initialized())
"""


def marked_processes(mark: str) -> list[str]:
    """Command lines of the living processes that were started with `mark` in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:  # gone, or not ours
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    ("number", "group", "name"),
    [(signal.SIGINT, True, "KeyboardInterrupt"), (signal.SIGTERM, False, "Terminated")],
)
def test_an_interrupt_ends_everything_soon(tmp_path, number, group, name):
    mark = f"GCSEARCH_TEST_MARK={tmp_path}"
    driver = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(tmp_path)],
        env=os.environ | dict([mark.split("=", 1)]),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while len(list(tmp_path.glob("at-work-*"))) < 2:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.1)
        assert len(marked_processes(mark)) > 3
        began = time.monotonic()
        # Ctrl-C reaches every process of the terminal's group, `kill` one alone.
        (os.killpg if group else os.kill)(driver.pid, number)
        seen = driver.communicate(timeout=60)
        took = time.monotonic() - began
    finally:
        driver.kill()
        driver.wait()
    assert seen == (f"{name} False\n", "")
    assert driver.returncode == 0
    assert took < 10  # about 2 s on a free machine
    deadline = time.monotonic() + 5
    while (left := marked_processes(mark)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == []
