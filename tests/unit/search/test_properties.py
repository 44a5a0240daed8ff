"""Pruning, for any values: how many go on, which, and that nothing but the values counts."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.trials import Rung
from gcsearch.search import pruning

VALUES = st.dictionaries(
    st.integers(0, 20), st.one_of(st.integers(0, 3).map(float), st.floats(0, 100), st.just(math.nan)), max_size=8
)
RIVALS = st.lists(st.one_of(st.integers(0, 3).map(float), st.floats(0, 100)), max_size=8).map(tuple)
KEEP = st.sampled_from([1.0, 1 / 2, 1 / 3, 1 / 4, 0.01])


def rung(keep, peers=()):
    return Rung(share=0.5, keep=keep, metric="val_h", peers=peers)


@given(VALUES, KEEP)
def test_of_a_pack_alone_goes_on_exactly_its_share_rounded_up(values, keep):
    assert len(pruning.survives(rung(keep), values)) == math.ceil(keep * len(values) - 1e-9)


@given(VALUES, KEEP, RIVALS)
def test_whoever_is_better_than_one_that_goes_on_goes_on_too(values, keep, peers):
    survives = pruning.survives(rung(keep, peers), values)
    assert len(survives) <= math.ceil(keep * (len(values) + len(peers)) - 1e-9)
    for left in values.keys() - survives:
        for kept in survives:
            better = values[left] > values[kept] or (math.isnan(values[kept]) and not math.isnan(values[left]))
            assert not better


@given(VALUES, KEEP, RIVALS, st.randoms(use_true_random=False))
def test_the_order_in_which_values_come_decides_nothing(values, keep, peers, random):
    there, others = list(values.items()), list(peers)
    random.shuffle(there)
    random.shuffle(others)
    assert pruning.survives(rung(keep, tuple(others)), dict(there)) == pruning.survives(rung(keep, peers), values)


@given(VALUES.filter(len), KEEP, RIVALS)
def test_a_rival_that_nobody_can_reach_helps_no_one_by_more_than_the_place_it_adds(values, keep, peers):
    before = pruning.survives(rung(keep, peers), values)
    after = pruning.survives(rung(keep, (*peers, 1e9)), values)
    assert len(after) <= len(before) + 1 and (after <= before or before <= after)


@given(
    st.sampled_from(["halving", "hyperband", "asha", "median"]), st.integers(2, 5), st.integers(1, 4), st.integers(0, 9)
)
def test_rungs_rise_and_what_is_left_to_train_falls(pruner, eta, count, pack):
    settings = SearchConfig(pruner=pruner, eta=eta, rungs=count)
    rungs = pruning.rungs(settings, pack)
    shares = [one.share for one in rungs]
    assert all(0 < share < 1 for share in shares) and shares == sorted(set(shares))
    assert 0 < pruning.finishing(settings) <= pruning.trained(settings) <= 1
    for epochs in (1, 7, 200):
        assert all(1 <= pruning.epoch_of(one, epochs) <= epochs for one in rungs)
