"""One pack: episodes without leaks, reports while it runs, records at the end."""

from __future__ import annotations

import json

import pytest
import torch

from gcsearch.config.trials import Outcome, Proposal, TrialConfig, TrialRecord
from gcsearch.methods.prompts import template_features
from gcsearch.training.trial import run_pack


def proposal(number, method, **hyperparameters):
    return Proposal(number=number, config=TrialConfig(method=method, hyperparameters=hyperparameters))


def test_search_episodes_split_the_base_classes_again(laboratory):
    one, two = laboratory.episodes("search", [1, 2])
    base = laboratory.dataset.classes[:4]
    assert one.names == two.names == base
    for episode in (one, two):
        assert sorted(episode.base.classes.tolist() + episode.new.classes.tolist()) == [0, 1, 2, 3]
        assert episode.views.shape == (2, 2 * 4, 32)
        assert len(episode.new.features) == 2 * 4
    assert set(one.new.classes.tolist()).isdisjoint(two.new.classes.tolist())


def test_the_search_stage_opens_no_test_image_and_no_new_class(laboratory, tmp_path, backbone, monkeypatch):
    from dataclasses import replace

    from gcsearch.data import image_files
    from gcsearch.data.features import FeatureCache

    opened = []
    fresh = replace(laboratory, cache=FeatureCache(tmp_path, backbone))
    read = image_files.read

    def watch(path, **how):
        opened.append(path)
        return read(path, **how)

    monkeypatch.setattr(image_files, "read", watch)
    fresh.episodes("search", [1, 2])
    assert opened
    base = {name.replace(" ", "_") for name in laboratory.dataset.classes[:4]}
    assert {path.parent.name for path in opened} == base
    assert not any(path.name.startswith("test") for path in opened)


def test_test_episodes_train_all_base_classes_and_score_test_images(laboratory):
    (episode,) = laboratory.episodes("test", [1])
    assert len(episode.base.classes) == len(episode.new.classes) == 4
    assert episode.names == laboratory.dataset.classes
    assert len(episode.base.features) == len(episode.new.features) == 4 * 6


def test_a_pack_of_several_methods_gives_one_record_each(laboratory):
    episodes = laboratory.episodes("search", [1, 2, 3])
    proposals = [
        proposal(0, "gcscoop", epochs=4, batch_size=8),
        proposal(1, "coop", epochs=2, batch_size=8),
        proposal(2, "zeroshot"),
        proposal(3, "sam", epochs=3, batch_size=4),
    ]
    reports = []
    trials = run_pack(laboratory, episodes, proposals, on_reports=reports.extend, worker="here")
    records = [trial.record for trial in trials]
    assert [record.number for record in records] == [0, 1, 2, 3]
    assert [record.epochs for record in records] == [4, 2, 0, 3]
    assert {record.outcome for record in records} == {Outcome.COMPLETE}
    assert [len(record.curve) for record in records] == [4, 2, 1, 3]
    assert sorted((r.number, r.epoch) for r in reports) == sorted(
        (record.number, report.epoch) for record in records for report in record.curve
    )
    gcs = records[0]
    assert set(gcs.metrics) == {
        *("val_base_acc", "val_base_margin", "val_new_acc", "val_h", "loss", "cosine"),
        *("share_plain", "share_projected", "share_perturbed"),
    }
    assert all(len(values) == 3 for values in gcs.metrics.values())
    assert [len(trial.parameters) for trial in trials] == [3, 3, 0, 3]
    assert TrialRecord.from_dict(json.loads(json.dumps(gcs.to_dict()))) == gcs


def test_measuring_less_often_changes_no_number(laboratory):
    episodes = laboratory.episodes("search", [1])
    every = run_pack(laboratory, episodes, [proposal(0, "coop", epochs=5, batch_size=4)])[0].record
    some = run_pack(laboratory, episodes, [proposal(0, "coop", epochs=5, batch_size=4)], evaluate_every=3)[0].record
    assert [report.epoch for report in some.curve] == [3, 5]
    assert some.curve == (every.curve[2], every.curve[4])


def test_zero_shot_is_the_template(laboratory):
    from gcsearch.stats import accuracy

    (episode,) = laboratory.episodes("test", [1])
    record = run_pack(laboratory, [episode], [proposal(0, "zeroshot")])[0].record
    text = template_features(laboratory.backbone, "a photo of a {}.", episode.names)
    expected = accuracy(episode.new.features, text[4:], episode.new.labels)
    assert record.metrics["test_new_acc"] == (expected,)


def test_a_diverged_seed_ends_the_setting_as_diverged_with_its_epoch(laboratory):
    # A step of 1e30 leaves float32's range within the first epochs.
    episodes = laboratory.episodes("search", [1, 2])
    wild = proposal(0, "coop", epochs=4, batch_size=4, lr=1e38)
    tame = proposal(1, "coop", epochs=4, batch_size=4)
    records = [trial.record for trial in run_pack(laboratory, episodes, [wild, tame])]
    assert records[0].outcome is Outcome.DIVERGED
    assert "seed 1: a loss or gradient was not finite in epoch 2" in records[0].reason
    assert records[0].epochs == 1
    assert records[1].outcome is Outcome.COMPLETE
    assert records[1].mean("val_h") == pytest.approx(records[1].metrics["val_h"][0], abs=100)


def test_members_of_one_method_refer_to_their_own_names_also_in_a_pack(laboratory):
    (episode,) = laboratory.episodes("test", [1])
    clean, seen = (
        proposal(number, "nfl", nfl_names=names, nfl_count=4, nfl_lambda=8.0, epochs=2, batch_size=4)
        for number, names in enumerate(("clean", "transductive"))
    )
    together = run_pack(laboratory, [episode], [clean, seen])
    for trial, own in zip(together, (clean, seen), strict=True):
        (alone,) = run_pack(laboratory, [episode], [own])
        torch.testing.assert_close(trial.parameters, alone.parameters, rtol=0, atol=1e-6)
    assert (together[0].parameters[0] - together[1].parameters[0]).abs().max() > 1e-3
