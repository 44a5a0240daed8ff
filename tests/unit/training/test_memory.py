"""The planner of pieces: what fits stays whole, what does not is cut evenly."""

from __future__ import annotations

import pytest
import torch

from gcsearch.errors import InputError
from gcsearch.methods.prompts import Pieces
from gcsearch.methods.registry import METHODS
from gcsearch.training import memory
from gcsearch.training.memory import Load
from gcsearch.training.population import Member, Population


@pytest.fixture
def load(backbone):
    return Load(backbone.tower, members=12, shared=5, suffix_tokens=200, classes=40)


def test_what_fits_goes_at_once(load):
    assert load.pieces(load.bytes(Pieces())) == Pieces()


def test_members_are_cut_evenly_before_classes(load):
    one = load.bytes(Pieces(members=1))
    assert load.pieces(8 * one) == Pieces(members=6)
    assert load.pieces(7 * one) == Pieces(members=6)
    assert load.pieces(one) == Pieces(members=1)


def test_on_the_processor_members_are_cut_where_pieces_grow_too_large_to_be_fast(load, monkeypatch):
    one = load.bytes(Pieces(members=1))
    monkeypatch.setattr(memory, "EASY_PIECE", 4 * one)
    assert load.pieces(100 * one) == Pieces(members=4)
    monkeypatch.setattr(memory, "EASY_PIECE", one // 2)
    assert load.pieces(100 * one) == Pieces(members=1)


def test_classes_are_cut_when_one_member_is_too_large(load):
    one = load.bytes(Pieces(members=1))
    pieces = load.pieces(one // 3)
    assert pieces.members == 1
    assert 1 <= pieces.classes <= 13
    assert load.bytes(pieces) <= one // 3


def test_the_images_of_a_batch_are_cut_where_each_has_a_prompt(backbone):
    load = Load(backbone.tower, members=2, shared=5, suffix_tokens=200, classes=40, images=32)
    one = load.bytes(Pieces(members=1))
    pieces = load.pieces(one // 4)
    assert pieces == Pieces(members=1, images=8)
    assert load.bytes(pieces) <= one // 4


def test_a_limit_that_holds_nothing_is_refused(load):
    with pytest.raises(InputError, match=r"memory: the memory limit must hold.*\nRaise the limit by"):
        load.pieces(1000)


def test_a_budget_leaves_out_what_the_process_has_already():
    taken = memory.taken_bytes(torch.device("cpu"))
    assert taken > 2**26
    left = memory.budget(taken + 2**30, torch.device("cpu"))
    assert 0.5 * 2**30 < left < 2**30
    with pytest.raises(InputError, match=r"leave room beside the \d+ MiB that the process has already, got 1 MiB"):
        memory.budget(2**20, torch.device("cpu"))
    assert memory.budget(None, torch.device("cpu")) > 2**26


@pytest.mark.parametrize("name", ["gcscoop", "cocoop", "prograd", "subpt+nfl"])
def test_a_step_in_pieces_gives_the_same_numbers(laboratory, monkeypatch, name):
    episodes = laboratory.episodes("search", [1, 2, 3])
    short = {"epochs": 2, "batch_size": 4, "lr": 0.02, "probe_epochs": 2, "rank": 1}
    method = METHODS[name].configured({k: v for k, v in short.items() if k in METHODS[name].hyperparameters})
    members = [Member(method, episode) for episode in episodes]
    whole = Population(laboratory.backbone, members)
    assert len(whole.parts) == 1
    smallest = whole.bytes // 3 - 1  # not even one member fits
    monkeypatch.setattr(memory, "budget", lambda limit, device: smallest)
    cut = Population(laboratory.backbone, members)
    assert len(cut.parts) == 3
    assert cut.bytes <= smallest
    assert len(cut.parts[0].prompts.suffixes) > 1 or cut.parts[0].prompts.images
    for _ in range(2):
        one, other = whole.train_epoch(), cut.train_epoch()
    assert [n["loss"] for n in one] == pytest.approx([n["loss"] for n in other], rel=1e-4)
    torch.testing.assert_close(whole.parameters, cut.parameters, rtol=1e-3, atol=1e-4)
    for mine, theirs in zip(whole.evaluate(), cut.evaluate(), strict=True):
        assert mine.metrics == pytest.approx(theirs.metrics, rel=1e-3, abs=1e-3)
