"""Champions as a sweep hands them to an export."""

from __future__ import annotations

from gcsearch.config.pipeline import Pipeline
from gcsearch.config.trials import Proposal, TrialConfig
from gcsearch.export.bundle import Champion
from gcsearch.methods import registry
from gcsearch.results.ranking import rank
from gcsearch.training.trial import run_pack

SHORT = {"epochs": 2, "batch_size": 8}
KINDS = {
    "gcscoop": {**SHORT, "rho": 0.1},
    "cocoop": {"epochs": 1, "batch_size": 4},
    "coop": {**SHORT, "class_specific": True},
    "zeroshot": {},
}


def a_champion(lab, method, values, seeds=(4, 5)) -> Champion:
    config = registry.complete(TrialConfig(method=method, hyperparameters=values))
    (done,) = run_pack(lab, lab.episodes("test", seeds), [Proposal(number=3, config=config)])
    record = done.record.model_copy(update={"label": "champion", "run_id": "r1"})
    return Champion(
        sweep="sweep",
        pipeline=Pipeline(name="sweep", task=lab.task),
        threads=1,
        record=record,
        parameters=done.parameters,
        references=[record.model_copy(update={"label": "CoOp", "number": -1})],
        chosen=rank([record], "test_base_acc")[0].document(),
        trials=7,
        tracking="sqlite:////somewhere/mlflow.db",
    )
