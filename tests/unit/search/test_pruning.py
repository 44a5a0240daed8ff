"""Who goes on from a rung: counted by hand, and in a real pack."""

from __future__ import annotations

import math

import pytest
import torch

from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.trials import EpochReport, Outcome, Proposal, Rung, TrialConfig
from gcsearch.driver import checks
from gcsearch.errors import InputError
from gcsearch.search import pruning
from gcsearch.training.loop import Checkpoint, name_of
from gcsearch.training.trial import run_pack
from tests.support.records import trial_record


def shares(pruner, pack=0, **settings):
    return [rung.share for rung in pruning.rungs(SearchConfig(pruner=pruner, **settings), pack)]


def test_rungs_lie_at_shares_of_the_schedule():
    assert shares("none") == []
    assert shares("halving", eta=2, rungs=2) == [1 / 4, 1 / 2]
    assert shares("halving", eta=4, rungs=2, first_rung=0.36) == pytest.approx([0.36, 0.6])
    assert shares("halving", eta=3, rungs=2) == pytest.approx([1 / 9, 1 / 3])
    assert shares("asha", eta=4, rungs=1) == [1 / 4]
    assert shares("median", rungs=3) == [1 / 4, 1 / 2, 3 / 4]
    assert [shares("hyperband", pack, eta=2, rungs=2) for pack in range(4)] == [
        [1 / 4, 1 / 2],
        [1 / 2],
        [],
        [1 / 4, 1 / 2],
    ]


@pytest.mark.parametrize(
    ("pruner", "share"), [("none", 1), ("halving", 1 / 16), ("median", 1 / 4), ("hyperband", (1 + 1 / 4 + 1 / 16) / 3)]
)
def test_so_many_train_to_their_ends(pruner, share):
    assert pruning.finishing(SearchConfig(pruner=pruner, eta=4, rungs=2)) == pytest.approx(share)


@pytest.mark.parametrize(("share", "epochs", "epoch"), [(1 / 3, 9, 3), (1 / 9, 10, 2), (1 / 4, 2, 1), (1 / 2, 1, 1)])
def test_a_rung_lies_at_an_epoch_of_each_setting(share, epochs, epoch):
    assert pruning.epoch_of(Rung(share=share, keep=0.5, metric="val_h"), epochs) == epoch


@pytest.mark.parametrize(
    ("keep", "values", "peers", "stay"),
    [
        (1 / 2, [1, 4, 3, 2], (), {1, 2}),
        (1 / 2, [1, 4, 3], (), {1, 2}),  # rounded up
        (1 / 3, [5], (), {0}),  # somebody always goes on where nobody else came
        (1 / 2, [7, 7, 7, 7], (), {0, 1}),  # of equals the earlier ones
        (1 / 2, [math.nan, 1, math.nan], (), {0, 1}),
        (1 / 3, [5, 6], (9, 1, 2, 3), {1}),  # 2 places for 6: the 9 and the 6
        (1 / 2, [5], (5,), {0}),  # an equal rival does not stand in the way
        (1 / 2, [4], (5,), set()),
        (1 / 2, [], (5,), set()),
    ],
)
def test_the_better_part_stays(keep, values, peers, stay):
    assert pruning.survives(Rung(share=0.5, keep=keep, metric="val_h", peers=peers), dict(enumerate(values))) == stay


def test_a_rival_is_who_came_to_the_rung_and_ended_well():
    def record(number, outcome, *curve):
        reports = [EpochReport(number=number, epoch=epoch, metrics={"val_h": (value,)}) for epoch, value in curve]
        return trial_record(number, outcome=outcome, seeds=(1,), epochs=9, curve=tuple(reports))

    records = [
        record(0, Outcome.COMPLETE, (2, 50.0), (4, 60.0), (8, 70.0)),
        record(1, Outcome.PRUNED, (4, 40.0)),
        record(2, Outcome.DIVERGED, (4, 99.0)),
        record(3, Outcome.COMPLETE, (4, math.nan)),
    ]
    quarter, half = pruning.rungs(SearchConfig(objective="val_h", pruner="asha", eta=2, rungs=2), 0)
    assert [pruning.value_at(quarter, one, 8) for one in records] == [50.0, None, None, None]
    assert [pruning.value_at(half, one, 8) for one in records] == [60.0, 40.0, None, None]
    assert pruning.value_at(quarter, records[1], 16) == 40.0


# In a real pack

RUNGS = pruning.rungs(SearchConfig(objective="val_h", pruner="halving", eta=2, rungs=2), 0)


def pack(*settings, rungs=RUNGS):
    return [
        Proposal(number=10 + i, config=TrialConfig(method="gcscoop", hyperparameters=values), rungs=rungs)
        for i, values in enumerate(settings)
    ]


SETTINGS = [
    {"epochs": 8, "batch_size": 4, "lr": 0.01},
    {"epochs": 16, "batch_size": 4, "lr": 0.02, "rho": 0.3},
    {"epochs": 9, "batch_size": 4, "n_ctx": 5, "lr": 0.05},  # another structure
    {"epochs": 4, "batch_size": 4, "lr": 1e-5},
]


@pytest.fixture(scope="module")
def episodes(laboratory):
    return laboratory.episodes("search", [1, 2])


@pytest.fixture(scope="module")
def halved(laboratory, episodes):
    return run_pack(laboratory, episodes, pack(*SETTINGS), evaluate_every=3)


@pytest.fixture(scope="module")
def whole(laboratory, episodes):
    return run_pack(laboratory, episodes, pack(*SETTINGS, rungs=()))


def test_the_worse_half_leaves_at_each_rung_with_all_its_seeds(halved, whole):
    """Expected from the curves of the same configurations that were left to train to their ends."""
    curves = [{report.epoch: report.mean("val_h") for report in trial.record.curve} for trial in whole]
    left: dict[int, int] = {}
    for rung, stay in zip(RUNGS, (2, 1), strict=True):
        at = {i: pruning.epoch_of(rung, SETTINGS[i]["epochs"]) for i in range(4) if i not in left}
        order = sorted(at, key=lambda i: (-curves[i][at[i]], i))
        left |= {i: at[i] for i in order[stay:]}
    assert len(left) == 3
    for i, (record, full) in enumerate((a.record, b.record) for a, b in zip(halved, whole, strict=True)):
        assert record.outcome is (Outcome.PRUNED if i in left else Outcome.COMPLETE)
        assert record.epochs == left.get(i, SETTINGS[i]["epochs"])
        for report in record.curve:
            same = full.curve[report.epoch - 1].metrics["val_h"]
            assert report.metrics["val_h"] == pytest.approx(same, abs=1e-4)
        assert record.metrics == record.curve[-1].metrics
    reasons = [trial.record.reason for trial in halved if trial.record.outcome is Outcome.PRUNED]
    assert all(" went on" in reason and "val_h" in reason for reason in reasons)


def test_rungs_are_measured_whatever_evaluate_every_says(halved):
    for trial, setting in zip(halved, SETTINGS, strict=True):
        ran, epochs = trial.record.epochs, setting["epochs"]
        rungs = {pruning.epoch_of(rung, epochs) for rung in RUNGS}
        due = {epoch for epoch in range(1, ran + 1) if epoch % 3 == 0 or epoch in rungs or epoch == epochs}
        assert {report.epoch for report in trial.record.curve} == due


def test_the_same_pack_decides_the_same_again(laboratory, episodes, halved):
    again = run_pack(laboratory, episodes, pack(*SETTINGS), evaluate_every=3)
    own = {"seconds": 0.0}
    assert [t.record.model_copy(update=own) for t in again] == [t.record.model_copy(update=own) for t in halved]


def test_a_diverged_setting_is_none_and_leaves_room_for_no_one(laboratory, episodes):
    wild = {"epochs": 8, "batch_size": 4, "lr": 1e38}
    records = [t.record for t in run_pack(laboratory, episodes, pack(wild, *SETTINGS[:2]))]
    assert records[0].outcome is Outcome.DIVERGED
    assert sorted(record.outcome for record in records[1:]) == ["complete", "pruned"]


def test_peers_of_other_packs_decide_too(laboratory, episodes):
    better = tuple(rung.model_copy(update={"peers": (101.0, 102.0)}) for rung in RUNGS)
    worse = tuple(rung.model_copy(update={"peers": (-1.0, -2.0)}) for rung in RUNGS)
    beaten = run_pack(laboratory, episodes, pack(SETTINGS[0], rungs=better))[0].record
    winner = run_pack(laboratory, episodes, pack(SETTINGS[0], rungs=worse))[0].record
    assert (beaten.outcome, beaten.epochs) == (Outcome.PRUNED, 2)
    assert (winner.outcome, winner.epochs) == (Outcome.COMPLETE, 8)


# Checkpoints


class Killed(BaseException):
    pass


class Dying(Checkpoint):
    """Its process is killed after so many epochs of a population."""

    last = 0

    def keep(self, *rest):
        super().keep(*rest)
        if self.calls == self.last:
            raise Killed


@pytest.mark.parametrize("dies_after", [1, 2, 5, 9, 13])
@pytest.mark.parametrize("rungs", [RUNGS, ()], ids=["halving", "none"])
def test_a_killed_pack_goes_on_bit_for_bit(laboratory, episodes, tmp_path, rungs, dies_after):
    wanted = pack(*SETTINGS, {"epochs": 6, "batch_size": 4, "lr": 1e38}, rungs=rungs)
    undisturbed = run_pack(laboratory, episodes, wanted)
    path = tmp_path / name_of(wanted)
    dying = Dying(path, every=2)
    dying.last = dies_after
    with pytest.raises(Killed):
        run_pack(laboratory, episodes, wanted, checkpoint=dying)
    assert path.exists() == (dies_after > 1)
    going_on = Checkpoint(path, every=2)
    resumed = run_pack(laboratory, episodes, wanted, checkpoint=going_on)
    own = {"seconds": 0.0}
    for one, other in zip(resumed, undisturbed, strict=True):
        assert one.record.model_copy(update=own) == other.record.model_copy(update=own)
        assert all(torch.equal(a, b) for a, b in zip(one.parameters, other.parameters, strict=True))
    whole = Checkpoint(tmp_path / "other", every=10**6)
    run_pack(laboratory, episodes, wanted, checkpoint=whole)
    assert going_on.calls == whole.calls - dies_after // 2 * 2  # at most the interval was trained twice


def test_a_damaged_checkpoint_is_named_and_not_used(laboratory, episodes, tmp_path, caplog):
    wanted = pack(SETTINGS[3])
    path = tmp_path / name_of(wanted)
    path.write_bytes(b"torn")
    (trial,) = run_pack(laboratory, episodes, wanted, checkpoint=Checkpoint(path, every=100))
    assert trial.record.outcome is Outcome.COMPLETE
    assert f"{path} cannot be read, so its pack begins anew" in caplog.text


def test_a_checkpoint_that_cannot_be_written_stops_nothing(laboratory, episodes, tmp_path, caplog):
    (tmp_path / "file").touch()
    checkpoint = Checkpoint(tmp_path / "file" / "pack", every=1)
    (trial,) = run_pack(laboratory, episodes, pack(SETTINGS[3]), checkpoint=checkpoint)
    assert trial.record.outcome is Outcome.COMPLETE
    assert "cannot be written" in caplog.text


def test_a_checkpoint_belongs_to_one_pack():
    one = name_of(pack(*SETTINGS))
    assert one == name_of(pack(*SETTINGS))
    assert one != name_of(pack(*SETTINGS, rungs=()))
    assert one != name_of(pack(*SETTINGS[:3]))


@pytest.mark.parametrize("pruner", ["halving", "hyperband"])
def test_a_pack_of_one_has_nothing_to_halve(pruner):
    search = {"pruner": pruner, "pack": 1}
    with pytest.raises(InputError, match=r"(?s)search\.pruner: .*must have two or more.*pack = 1.*pruner = .asha"):
        checks.check(Pipeline.from_dict({"name": "one", "search": search}))
    checks.check(Pipeline.from_dict({"name": "one", "search": {"pruner": "asha", "pack": 1}}))
