"""A temperature for the probabilities of an export, fitted on validation images.

Dividing logits by one number changes no answer and makes confidence agree with accuracy (Guo et al. 2017, section 4).
The number minimises the negative log-likelihood, which is convex in its inverse, so that there is one minimum.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gcsearch.data.lists import draws
from gcsearch.errors import InputError
from gcsearch.export.classifier import Classifier
from gcsearch.results.documents import Temperature
from gcsearch.stats import Calibration
from gcsearch.training.task_data import Laboratory

_REACH = math.log(100.0)
"""A temperature is sought between a hundredth and a hundred."""


def fitted(classifier: Classifier, laboratory: Laboratory) -> Temperature:
    """The temperature of the mean logits over the seeds, on the validation images of the trained classes.

    InputError where there are none.
    """
    images, labels = _validation(classifier, laboratory)
    logits = classifier.logits(images, classifier.trained)
    value = best_temperature(logits, labels)
    before, after = Calibration.of(logits, labels), Calibration.of(logits / value, labels)
    return Temperature(
        value=value, images=len(labels), nll_before=before.nll, nll=after.nll, ece_before=before.ece, ece=after.ece
    )


def best_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number that logits [N, C] are divided by for the largest likelihood of `labels`."""
    from scipy.optimize import minimize_scalar

    own = logits.double()

    def loss(logarithm: float) -> float:
        return float(torch.nn.functional.cross_entropy(own / math.exp(logarithm), labels))

    return math.exp(minimize_scalar(loss, bounds=(-_REACH, _REACH), method="bounded").x)


def _validation(classifier: Classifier, laboratory: Laboratory) -> tuple[Tensor, Tensor]:
    """Features of the validation images of trained classes that any seed draws, and their places among the names."""
    trained, _ = laboratory.halves
    drawn = {item: None for seed in classifier.seeds for item in laboratory.draw(seed)[1]}
    items = list(drawn)
    chosen = [items[place] for place in draws.of_labels(items, trained)]
    if not chosen:
        rule = "a temperature is fitted on validation images, and this task has none"
        remedy = "Leave --calibrate out."
        raise InputError(rule, key="task.val_shots", received=laboratory.task.val_shots, remedy=remedy)
    features = laboratory.cache.fixed(laboratory.dataset, chosen).float()
    return features, torch.tensor([trained.index(item.label) for item in chosen])
