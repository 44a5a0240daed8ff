"""Class texts laid end to end: nothing overlaps, little is padded, and a crowd changes nothing."""

from __future__ import annotations

import pytest
import torch

from gcsearch.clip.packing import tables, tiling

FIFTY = [3 + i % 6 for i in range(50)]


@pytest.mark.parametrize("width", [64, 512])
@pytest.mark.parametrize("lengths", [[FIFTY], [[3], [7]], [[3, 40, 3, 3]], [FIFTY, FIFTY[::-1], [4] * 50]])
def test_every_class_has_its_positions_to_itself(lengths, width):
    plan = tiling(lengths, shared=5, width=width)
    for group, places in zip(lengths, plan.places, strict=True):
        taken = {(0, offset) for offset in range(5)}
        for length, (tile, offset) in zip(group, places, strict=True):
            mine = {(tile, offset + i) for i in range(length)}
            assert offset + length <= plan.length
            assert tile < plan.tiles
            assert not mine & taken
            taken |= mine


def test_padding_is_a_few_per_cent():
    assert tiling([FIFTY], shared=5, width=512).positions <= 1.05 * (sum(FIFTY) + 5)
    assert tiling([FIFTY], shared=5, width=64).positions <= 1.10 * (sum(FIFTY) + 5)


def test_one_long_name_does_not_pad_the_others():
    assert tiling([[4] * 49 + [30]], shared=5, width=512).positions <= 1.1 * (4 * 49 + 30 + 5)


def test_few_classes_lie_in_one_tile():
    assert tiling([[4, 5, 6]], shared=5, width=64).tiles == 1


def test_members_with_equal_names_are_divided_as_one_alone():
    alone, crowd = tiling([FIFTY], 5, 64), tiling([FIFTY] * 12, 5, 64)
    assert (crowd.tiles, crowd.length, crowd.places[7]) == (alone.tiles, alone.length, alone.places[0])


def test_a_position_sees_the_prefix_and_its_own_text_up_to_itself():
    rows = [[[7, 8, 9], [10, 11]]]
    plan = tiling([[3, 2]], shared=2, width=512)
    assert plan.tiles == 1
    table = tables(rows, plan)
    assert table.tokens.tolist() == [[-1, -1, 7, 8, 9, 10, 11]]
    assert table.places.tolist() == [[0, 1, 2, 3, 4, 2, 3]]
    seen = (table.mask[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1, 1],
    ]
    assert table.rows.tolist() == [[4, 6]]


def test_uses_name_the_positions_of_inserted_rows():
    rows = [[[-3, 8, 9], [10, -3, -6]], [[1, 2, 3], [-6, 5, 6]]]
    plan = tiling([[3, 3], [3, 3]], shared=1, width=64)
    table = tables(rows, plan)
    assert table.used.tolist() == [2, 5]
    for group, row in ((0, 2), (0, 5), (1, 2), (1, 5)):
        at = table.uses[group, table.used.tolist().index(row)][table.weights[group][table.used == row][0] > 0]
        count = sum(token == -(row + 1) for text in rows[group] for token in text)
        assert len(at) == count
        assert torch.all(table.tokens[group, at] == -1)
