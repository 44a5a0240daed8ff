"""How many packs run at a time, and with how much of the machine."""

import pytest

from gcsearch.config.pipeline import Resources
from gcsearch.errors import InputError
from gcsearch.execution.placement import Placement, place


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
