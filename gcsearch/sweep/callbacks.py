"""What a caller may listen to while a sweep runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcsearch.config.trials import EpochReport, Proposal, TrialRecord

if TYPE_CHECKING:
    from gcsearch.sweep.sweep import Sweep


class Callback:
    """What a caller may listen to; every method does nothing here. The command line draws bars with it."""

    def stage(self, name: str, total: int | None = None) -> None:
        """A stage of `total` units begins."""

    def progress(self, done: int, total: int) -> None:
        """The present stage has come to `done` of `total`."""

    def begun(self, sweep: Sweep) -> None:
        """The sweep has its folder, and this process begins its session on it."""

    def cluster(self, description: str) -> None:
        """A Ray cluster has been joined, with this address and size."""

    def proposal(self, proposal: Proposal) -> None:
        """A configuration is about to run."""

    def reports(self, reports: list[EpochReport]) -> None:
        """Running configurations have finished epochs."""

    def record(self, record: TrialRecord) -> None:
        """A configuration has ended."""

    def warn(self, text: str) -> None:
        """Something that the user should know, and that did not stop the work."""

    def repaired(self, text: str) -> None:
        """Something that an earlier session left broken was put right."""


Watcher = Callback
"""The former name."""
