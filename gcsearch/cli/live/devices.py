"""How busy the GPUs of this machine are."""

from __future__ import annotations

import time

_SECONDS = 2.0  # between two looks
_last: tuple[float, tuple[str, ...]] = (-_SECONDS, ())


def use() -> tuple[str, ...]:
    """`GPU 0 83 %` for each GPU that torch sees; nothing where NVIDIA's library for that cannot be asked."""
    global _last
    at, found = _last
    if time.monotonic() - at >= _SECONDS:
        import torch

        try:
            every = range(torch.cuda.device_count())
            found = tuple(f"GPU {index} {torch.cuda.utilization(index)} %" for index in every)
        except (ImportError, RuntimeError):  # no nvidia-ml-py, or a driver that does not say
            found = ()
        _last = time.monotonic(), found
    return found
