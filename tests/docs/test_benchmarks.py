"""Every benchmark runs in its quick form, and what it counts or compares is right."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gcsearch.clip import model
from tests.support.models import random_clip

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def quick(name):
    """The cells of the last row of the table that `benchmarks/NAME --quick` prints."""
    command = [sys.executable, str(BENCHMARKS / name), "--quick", "--threads", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [cell.strip() for cell in done.stdout.strip().splitlines()[-1].strip("|").split("|")]


def test_matmul_fraction_counts_less_than_is_executed():
    members, _, _, executed, reached, rate, _ = quick("matmul_fraction.py")
    assert members == "2"
    assert 1 < float(executed.removesuffix(" x")) < 1.3
    assert 0 < float(reached) < float(rate)


@pytest.mark.parametrize("layers", [2, 4])
def test_useful_operations_are_those_executed_where_nothing_is_padded(layers, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import torch
    from matmul_fraction import executed_operations, useful_operations

    tower = model.text_tower(random_clip(64, layers, embed=32), "tower")
    suffix, images = tower.pack([[[320, 330, 269, tower.end]]]), torch.randn(8, 32)
    context = torch.randn(1, 3, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    suffix.layout(3, tower)  # the constants of a run

    def one_pass():
        torch.autograd.grad((images @ tower.encode(context, suffix)[0].T).sum(), context)

    # One class in one tile: only attention that the mask removes is executed and not counted.
    masked = 7 * 7 - 7 * 8 // 2
    useful = useful_operations(3, [4], 64, layers, embed=32, batch=8)
    assert executed_operations(one_pass) == useful + 3 * 4 * 64 * (layers - 1) * masked


def test_the_plain_reference_computes_the_same_gradient_as_ours():
    *_, ratio, apart = quick("step.py")
    assert float(apart) < 1e-4
    assert float(ratio) > 0


def test_every_population_of_the_scaling_benchmark_trains():
    members, _, rate, _ = quick("scaling.py")
    assert members == "3"
    assert float(rate) > 0


@pytest.mark.slow
def test_a_limit_cuts_the_work_and_not_the_numbers():
    _, members, limit, pieces, kept, peak, _, loss = quick("memory.py")
    assert (members, limit) == ("48", "600 MiB")
    assert int(pieces.split()[0]) < 48
    assert int(kept) < int(peak) < 600
    assert float(loss) > 0


def test_the_cache_holds_what_the_bare_encoder_gives():
    images, decoders, bare, cached, _, apart, _, rows, _, took = quick("encoding.py")
    assert (images, decoders, rows) == ("40", "auto", "1000")
    assert float(bare) > 0 < float(cached)
    assert float(apart) < 3e-4  # half a step of float16 below 1
    assert float(took) < 1


def test_commands_run_on_the_journal_that_is_made_for_them():
    trials, journal, *taken, report = quick("commands.py")
    assert trials == "32"
    assert 0 < float(journal) < 5 < 10 * float(report) < 100
    assert all(float(one.split()[0]) > 0 for one in taken)


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["6 GiB", "1536 MiB"])
def test_twelve_members_of_500_classes_stay_under_a_limit_at_real_size(limit):
    """ViT-B/16-sized tower, one step; the script itself ends with 1 where the process went over."""
    flags = ["--classes", "500", "--members", "12", "--limit", limit, "--method", "coop"]
    command = [sys.executable, str(BENCHMARKS / "memory.py"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().splitlines()[-1].startswith(f"| 500 | 12 | {limit} |")


@pytest.mark.slow
def test_a_search_in_measured_curves_finds_what_is_there(tmp_path, monkeypatch):
    """The quick form on the committed table; and curves are what they were measured as."""
    name, *cells = quick("quality.py")
    assert name.startswith("TPE, halving")
    assert all(-60 < float(cell.split()[0]) <= 0 for cell in cells[1:])
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import json

    from curves import OBJECTIVE, TABLE
    from quality import Curves

    from gcsearch.config.search_space import load
    from gcsearch.config.trials import Proposal, TrialConfig

    rows, space = json.loads(TABLE.read_text()), load("gcscoop")
    curves = Curves(rows, space)
    for row in rows[::9]:
        setting = TrialConfig(method="gcscoop", hyperparameters=space.natural(row["place"]))
        (record,) = curves.train([Proposal(number=0, config=setting)])
        assert record.metrics[OBJECTIVE] == (pytest.approx(row["curve"][-1], abs=1e-3),)
        assert record.epochs == len(row["curve"])


@pytest.mark.slow
def test_the_benchmarks_of_the_search_run_in_their_quick_form():
    """But for throughput.py, whose quick form takes minutes: five searches, each in a Ray of its own."""
    setup, settings, *_ = quick("overhead.py")
    assert (setup, settings) == ("stock", "2")
    assert quick("endurance.py")[0] == "40"
    written, size, _ = quick("recording.py")
    assert (written, float(size) > 0) == ("files", True)


@pytest.mark.slow
def test_the_objectives_are_judged_by_what_their_choices_reach():
    name, correlation, of_drawn, reached, *_ = quick("proxy.py")
    assert name.endswith(", folds2")
    assert -1 <= float(correlation.split()[0]) <= 1
    assert -1 <= float(of_drawn.split()[0]) <= 1
    assert 0 < float(reached) <= 100
