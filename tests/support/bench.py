"""A sweep whose search is over, and a stand-in for the training of its confirmation."""

from __future__ import annotations

from gcsearch import files
from gcsearch.config import search_space
from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Outcome, Proposal, TrialConfig
from gcsearch.driver.confirm import Confirmation
from gcsearch.execution.executor import Batch, LocalExecutor, TrialsReturned, Wave
from gcsearch.sweep.store import Store
from gcsearch.sweep.sweep import Sweep
from tests.support.records import trial_record

TRUTH = {0: 80.0, 1: 81.0, 2: 85.0, 3: 84.9, 4: 70.0}
"""What each configuration is worth; 2 and 3 cannot be told apart, and 3 has a fifth of the epochs."""

EPOCHS = {0: 50, 1: 50, 2: 100, 3: 20, 4: 50}


def config(number):
    return TrialConfig(method="sam", hyperparameters={"rho": 0.1 + number / 100, "epochs": EPOCHS.get(number, 10)})


def measured(proposal, stage, seeds, outcome=Outcome.COMPLETE):
    """As if trained: what the configuration is worth, and something of each seed; references are worth 75."""
    value = TRUTH.get(proposal.number, 75.0)
    numbers = tuple(value + 0.2 * ((seed * 7 + proposal.number * 3) % 5 - 2) for seed in seeds)
    names = (
        ("val_base_acc", "val_new_acc", "val_h") if stage == "search" else ("test_base_acc", "test_new_acc", "test_h")
    )
    known = {"config": proposal.config, "stage": stage, "seeds": seeds, "epochs": 1}
    return trial_record(proposal.number, outcome=outcome, metrics=dict.fromkeys(names, numbers), **known)


class Bench:
    """A sweep whose search is over, and a stand-in for the training that notes what it was asked for."""

    def __init__(self, folder, **confirm):
        content = {
            "name": "one",
            "search": {"space": "sam", "objective": confirm.pop("objective", "val_h")},
            "confirm": {"top": 3, "references": ["zeroshot"], **confirm},
        }
        self.pipeline = Pipeline.from_dict(content)
        self.folder = folder / "sweeps" / "one"
        self.folder.mkdir(parents=True)
        (self.folder / "pipeline.toml").write_text(files.to_toml(self.pipeline.to_dict()))
        self.store = Store(folder)
        self.asked, self.stages, self.heard, self.stop_after = [], [], [], None
        stage = self.pipeline.search.stage
        for number in TRUTH:
            record = measured(Proposal(number=number, config=config(number)), stage, (1, 2, 3))
            self.sweep.journal.append("record", record=record)

    @property
    def sweep(self):
        return Sweep("one", self.store, self.folder)

    def train(self, batch, report):
        (trial,) = batch.trials
        if self.stop_after is not None and len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append((batch.stage, batch.seeds, trial.number))
        return [measured(trial, batch.stage, batch.seeds)]

    def wave(self, stage, seeds, trials, keep):
        batches = [Batch(stage=stage, seeds=seeds, trials=(trial,)) for trial in trials]

        def hear(event):
            if isinstance(event, TrialsReturned):
                for record in event.records:
                    keep(record)

        return Wave(batches, hear)

    def run(self):
        space, found = search_space.load("sam"), []
        stages, heard = (lambda *stage: self.stages.append(stage)), self.heard.append
        stage = Confirmation(self.sweep, self.sweep.journal, self.pipeline, space, self.wave, stages, heard)

        def waves():
            found.extend((yield from stage.run()))

        LocalExecutor().run(waves(), self.train)
        return tuple(found)

    def finish(self):
        finals, champion = self.run()
        self.sweep.journal.append("final", records=finals, threads=1)
        return finals, champion
