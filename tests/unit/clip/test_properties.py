"""Packed texts, of any lengths: each has its positions to itself, and its features are those that it has alone."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gcsearch.clip.packing import tiling

STOP, END = 269, 49407
LENGTHS = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=30), min_size=1, max_size=4)
NAMES = st.lists(st.lists(st.integers(300, 40_000), min_size=1, max_size=7), min_size=1, max_size=9)


@given(LENGTHS.filter(lambda groups: len({len(group) for group in groups}) == 1), st.sampled_from([64, 512]))
def test_every_text_has_its_positions_to_itself(lengths, width):
    plan = tiling(lengths, shared=5, width=width)
    for group, places in zip(lengths, plan.places, strict=True):
        taken = {(0, offset) for offset in range(5)}
        for length, (tile, offset) in zip(group, places, strict=True):
            mine = {(tile, offset + i) for i in range(length)}
            assert offset + length <= plan.length and tile < plan.tiles
            assert not mine & taken
            taken |= mine


@settings(max_examples=25)
@given(NAMES, st.integers(1, 6), st.integers(0, 99))
def test_features_of_packed_texts_are_those_of_each_alone(backbone, names, context, seed):
    tower, texts = backbone.tower, [[*name, STOP, END] for name in names]
    vectors = torch.randn(1, context, tower.width, generator=torch.Generator().manual_seed(seed)) * 0.02
    prefix = torch.cat([tower.embed([tower.start]).expand(1, -1, -1), vectors], dim=1)
    (packed,) = tower.encode(prefix, tower.pack([texts]))
    alone = torch.cat([tower.encode(prefix, tower.pack([[text]]))[0] for text in texts])
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-4)
