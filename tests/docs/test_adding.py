"""docs/adding.md, followed to the letter in a copy of the package: what it names is enough, and each addition works."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[2]

LOSS = '''
class ConfidencePenalty(Loss):
    """`confidence` times the negative entropy of the predictions. confidence = 0 is CoOp."""

    kind: ClassVar[str | None] = "confidence"

    confidence: NotNegative = 0.5

    def term(self, forward: Forward, anchors: Tensor, numbers: Mapping[str, Tensor]) -> Tensor:
        logs = forward.logits.log_softmax(-1)
        return numbers["confidence"] * (logs.exp() * logs).sum(-1).mean(1)


'''

RULE = '''
class Mean(Sharpness):
    """The mean of plain and perturbed gradient, by `share`. Limits: share = 0 is plain, share = 1 is SAM."""

    share: Share = 0.5

    def update(self, at: Step) -> Update:
        loss, plain = at.gradients(at.parameters)
        perturbed, cosine = at.look_ahead(plain, perturbation(plain, at.numbers["rho"]))
        return Update(loss, plain.lerp(perturbed, along(at.numbers["share"], plain)), cosine)
'''

READER = '''

def flat(folder: Path, images: Path) -> Contents:
    """NAME-NUMBER.png in one folder: every third image is tested, every third validates."""
    found = images_in(images)
    classes = tuple(sorted({name.partition("-")[0] for name in found}))
    items = [Item(name, classes.index(name.partition("-")[0])) for name in found]
    return Contents(images, classes, tuple(items[::3]), tuple(items[1::3]), tuple(items[2::3]))
'''

SPACE = """version = 1
method = "confidence+mean"
[parameters]
confidence = { low = 0.1, high = 1.0 }
share = { low = 0.1, high = 0.9 }
epochs = { value = 2 }
"""

METRIC = """    Metric("val_base_error", "search", "trained", "base", "negative base error",
           "negative error on trained base classes, validation images"),
"""

ADDITIONS: dict[str, list[tuple[str, str, str]]] = {
    "A method": [
        ("gcsearch/methods/base.py", '    "rule": "a gradient rule",\n', '    "confidence": "a confidence penalty",\n'),
        ("gcsearch/methods/losses.py", "\nclass Teacher(Part):", LOSS),
        (
            "gcsearch/methods/registry.py",
            '        Method("sam", ',
            '        Method("confidence", "confidence penalty", losses=(losses.ConfidencePenalty(),)),\n',
        ),
        ("search_spaces/confidence.toml", "", SPACE),
    ],
    "A gradient rule": [
        ("gcsearch/methods/rules.py", "\nclass ASAM(Sharpness):", RULE + "\n"),
        (
            "gcsearch/methods/registry.py",
            '        Method("asam", ',
            '        Method("mean", "mean", rule=rules.Mean()),\n',
        ),
    ],
    "A data set": [
        ("gcsearch/data/layouts/benchmark.py", "\ndef divided(", READER + "\n"),
        (
            "gcsearch/data/datasets.py",
            '    "ImageNet": Layout(',
            '    "Flat": Layout("flat", "all", reader=benchmark.flat),\n',
        ),
    ],
    "A metric": [
        ("gcsearch/config/metrics.py", '    Metric("val_base_acc", ', METRIC),
        (
            "gcsearch/training/episodes.py",
            "    rest = [other.accuracy for other in others]\n",
            '    if f"{own}_acc" == "val_base_acc":\n        found["val_base_error"] = trained.accuracy - 100\n',
        ),
        ("gcsearch/config/metrics.py", '"val_base_acc", "val_base_margin", ', '"val_base_error", '),
    ],
    "A sampler": [
        (
            "gcsearch/search/samplers.py",
            '    "random": _random,\n',
            '    "halton": lambda settings: optuna.samplers.QMCSampler(qmc_type="halton", seed=settings.seed),\n',
        ),
        ("gcsearch/config/pipeline.py", '"random", "grid"] = "tpe"', '"halton", '),
    ],
}
"""What each paragraph is followed with: file, text before which it goes, what is added."""

FOLLOW = """
import json
import sys
from gcsearch.config.pipeline import SearchConfig
from gcsearch.config.search_space import load
from gcsearch.config.task import Task
from gcsearch.results.ranking import rank
from gcsearch.search.proposer import Proposer
from gcsearch.training import loading
from gcsearch.training.trial import run_pack

task = Task.from_dict({"dataset": "Flat", "root": sys.argv[1], "shots": 2, "views": 1, "folds": 1, "seeds": [1]})
configurations = SearchConfig(sampler="halton", objective="val_base_error", trials=2, pack=2, generation=1)
proposer, laboratory = Proposer(load("confidence"), configurations), loading.laboratory(task)
episodes = laboratory.episodes("search", task.seeds)
for pack in proposer.ask():
    for trial in run_pack(laboratory, episodes, pack):
        proposer.tell(trial.record)
records = proposer.records
print(json.dumps({
    "classes": laboratory.dataset.classes,
    "best": rank(records, "val_base_error")[0].record.mean("val_base_error"),
    "records": [record.to_dict() for record in records],
}))
"""


def paragraph(title: str) -> str:
    """The paragraph of the page that begins with a title."""
    page = (REPOSITORY / "docs" / "adding.md").read_text()
    return next(part for part in page.split("\n\n") if part.startswith(f"**{title}**"))


@pytest.mark.parametrize("title", ADDITIONS)
def test_the_page_names_every_file_that_an_addition_touches(title):
    named = re.findall(r"`([\w/.]+)`", paragraph(title))
    for file, _, _ in ADDITIONS[title]:
        assert file in named or f"{Path(file).parent}/" in named, file


def test_what_is_added_as_the_page_says_works_at_once(tmp_path):
    """One search of two trials goes through a new loss with a new rule, data set, metric, objective and sampler."""
    for folder in ("gcsearch", "search_spaces"):
        shutil.copytree(REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file, before, added in (edit for edits in ADDITIONS.values() for edit in edits):
        path = tmp_path / file
        text = path.read_text() if path.exists() else ""
        assert text.count(before) == 1 or not text, (file, before)
        path.write_text(text.replace(before, added + before) if text else added)
    images = tmp_path / "data" / "flat" / "all"
    images.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for name in ("blue", "green", "red", "yellow"):
        for number in range(9):
            pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(images / f"{name}-{number}.png")
    command = [sys.executable, "-W", "error", "-c", FOLLOW, str(tmp_path / "data")]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "GCSEARCH_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["classes"] == ["blue", "green", "red", "yellow"]
    first, second = found["records"]
    assert {first["outcome"], second["outcome"]} == {"complete"}
    assert first["config"]["hyperparameters"]["share"] != second["config"]["hyperparameters"]["share"]
    assert first["metrics"]["loss"] != second["metrics"]["loss"]
    errors = [record["metrics"]["val_base_error"][0] for record in found["records"]]
    assert errors == [record["metrics"]["val_base_acc"][0] - 100 for record in found["records"]]
    assert found["best"] == max(errors)
