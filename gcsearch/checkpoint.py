"""What a killed process would lose of a pack: one small safetensors file, replaced every few epochs."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gcsearch import files
from gcsearch.schema import Proposal
from gcsearch.training import State

logger = logging.getLogger(__name__)


def name_of(proposals: Sequence[Proposal]) -> str:
    """Name of the file of a pack: the same for the same settings under the same numbers and rungs, for no other."""
    text = json.dumps([proposal.to_dict() for proposal in proposals], sort_keys=True)
    return f"{proposals[0].number}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"


Notes = dict[str, Any]
"""JSON values."""


@dataclass
class Checkpoint:
    """The file at `path`, written every `every` calls of `keep`.

    Nothing that goes wrong with it stops a pack: one that cannot be written or read costs only what it would
    have saved.
    """

    path: Path
    every: int
    calls: int = 0

    def load(self) -> tuple[Notes, int, dict[int, State]] | None:
        """The notes, the rung that was aimed at, and the members' states; None where there is no such file."""
        import safetensors

        if not self.path.exists():
            return None
        try:
            with safetensors.safe_open(self.path, framework="pt") as file:
                kept = json.loads(file.metadata()["kept"])
                states: dict[int, State] = {}
                for key in file.keys():  # noqa: SIM118 - it is no mapping
                    position, _, name = key.partition(".")
                    states.setdefault(int(position), {})[name] = file.get_tensor(key)
        except Exception as error:  # whatever a damaged file brings about, the pack begins anew
            logger.warning("%s cannot be read, so its pack begins anew: %s", self.path, error)
            return None
        return kept["notes"], kept["rung"], states

    def keep(self, rung: int, states: Callable[[], Mapping[int, State]], notes: Callable[[], Notes]) -> None:
        """Write the file if it is time to; the former one is there until the new one is whole."""
        self.calls += 1
        if self.calls % self.every:
            return
        tensors = {
            f"{position}.{name}": tensor for position, state in states().items() for name, tensor in state.items()
        }
        try:
            files.write_tensors(self.path, tensors, {"kept": json.dumps({"rung": rung, "notes": notes()})})
        except OSError as error:
            logger.warning("%s cannot be written: %s", self.path, error.strerror or error)

    def remove(self) -> None:
        """Whoever has the records of the pack needs it no longer."""
        self.path.unlink(missing_ok=True)
