"""The Pareto front against its definition, for any numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gcsearch.config.trials import Outcome
from gcsearch.results.ranking import front
from tests.support.records import trial_record

NAMES = ("val_base_acc", "val_new_acc", "val_h")
FEW = st.integers(0, 4).map(float)  # ties are what goes wrong
ANY = st.one_of(FEW, st.floats(0, 100), st.just(float("nan")))


@given(st.data(), st.integers(1, 3))
def test_the_front_is_what_its_definition_says(data, count):
    names = NAMES[:count]
    rows = data.draw(st.lists(st.tuples(st.sampled_from(Outcome), *[ANY] * count), max_size=12))
    records = [
        trial_record(
            n, outcome=outcome, seeds=(1,), metrics={name: (value,) for name, value in zip(names, own, strict=True)}
        )
        for n, (outcome, *own) in enumerate(rows)
    ]

    def counts(row):
        return row[0] is Outcome.COMPLETE and all(value == value for value in row[1:])

    def beats(other, own):
        return other != own and all(a >= b for a, b in zip(other, own, strict=True))

    values = {n: row[1:] for n, row in enumerate(rows) if counts(row)}
    assert front(records, names) == {
        n for n, own in values.items() if not any(beats(other, own) for other in values.values())
    }
