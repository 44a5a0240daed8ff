"""Methods at short hyperparameters, and a guard that fails where a step would wait for a GPU."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gcsearch.methods.registry import find


def setting(name, **values):
    """A short run of `name`: three epochs of two batches."""
    short = {"epochs": 3, "batch_size": 4, "lr": 0.02, "nfl_count": 3, "probe_epochs": 3, "rank": 1} | values
    method = find(name)
    return method.configured({key: value for key, value in short.items() if key in method.hyperparameters})


class NothingReadBack(TorchDispatchMode):
    """Fails on every operation for which the host would wait for the device."""

    WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        by_mask = name.startswith("index") and any(
            t is not None and t.dtype in (torch.bool, torch.uint8)
            for arg in args
            if isinstance(arg, (list, tuple))
            for t in arg
            if t is None or isinstance(t, torch.Tensor)
        )
        assert not name.startswith(self.WAITS), f"{name} waits for the device"
        assert not by_mask, f"{name} with a mask waits for the device"
        return func(*args, **(kwargs or {}))
