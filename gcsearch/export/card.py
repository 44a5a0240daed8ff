"""The card of an export: what it is, how good, how chosen, from what, in words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import nan

from gcsearch.config.metrics import NATS, PERCENT, Unit, columns, find
from gcsearch.config.trials import TrialFile
from gcsearch.methods.registry import with_tags
from gcsearch.results.documents import Exported, Measured, Numbers, Objective
from gcsearch.stats import Spread, number, plus_minus


def write_up(facts: Exported, trial: TrialFile, contents: Mapping[str, str], left_out: Sequence[str]) -> str:
    """The card as Markdown.

    Args:
        contents: file name to what is in it.
        left_out: sentences that say what an export may hold and this one does not, and why.
    """
    task, title = trial.task, with_tags(facts.champion.name, facts.champion.tags)
    sections = {
        "Numbers": _numbers(facts, trial),
        "Verdict": [*facts.verdict, "", _PAIRED] if facts.verdict else [],
        "How it was chosen": _chosen(facts),
        "Protocol": [
            f"{_protocol(trial)} Measured after the last epoch, with seeds {', '.join(map(str, trial.seeds))}; a seed "
            "fixes draw, views, batches and random start.",
        ],
        "Data": _data(facts),
        "Frozen model": [_model(facts)],
        "Configuration": [f"`{facts.champion.config.describe()}`"],
        "Files": [*(f"- `{name}`: {words}" for name, words in contents.items()), "", *left_out],
        "Use": ["```", *_commands(contents), "```"],
        "Where it comes from": _origin(facts),
    }
    lines = [f"# {title} on {task.dataset}, {task.backbone}", "", _summary(facts, trial)]
    for heading, body in sections.items():
        if body:
            lines += ["", f"## {heading}", "", *body]
    return "\n".join(lines).rstrip() + "\n"


_PAIRED = (
    "Differences are paired by seed. Intervals: studentised bootstrap from five seeds on, Student's t below. "
    "Wilcoxon's p cannot fall below 2 / 2^n for n seeds, so the verdict follows the interval."
)


_CALIBRATION = (
    "Calibration of the prompts of single seeds on test images, expected calibration error (15 equal-width bins of "
    "confidence) and negative log-likelihood"
)


def _summary(facts: Exported, trial: TrialFile) -> str:
    kind = "Trained prompts" if facts.champion.epochs else "Text features of a written prompt"
    sizes = [f"{len(names)} {'' if side == 'all' else f'{side} '}classes" for side, names in facts.classes if names]
    return (
        f"{kind} for a frozen CLIP, the champion of the sweep {facts.chosen.sweep}: {', '.join(sizes)}; "
        f"{len(trial.seeds)} seeds."
    )


def _protocol(trial: TrialFile) -> str:
    """What was trained and measured, see `gcsearch.config.metrics`."""
    task = trial.task
    if task.classes == "all":
        trained = f"Few-shot on all classes: {_shots(trial)} of each. Measured on all test images among all names."
    else:
        trained = (
            f"Few-shot, base to new: {_shots(trial)} of every base class, nothing of a new class. "
            "Measured on all test images of a half among that half's own names."
        )
    away = f" Also on all test images of {', '.join(task.targets)}, never trained on." if task.targets else ""
    return trained + away


def _shots(trial: TrialFile) -> str:
    return f"{trial.task.shots} images" if trial.task.shots > 1 else "1 image"


def _numbers(facts: Exported, trial: TrialFile) -> list[str]:
    shown = columns(trial.task)
    lines = [
        "Accuracy on test images in %: mean ± standard deviation over seeds, and the 95 % interval of the mean by "
        "Student's t, which takes the seeds for draws from a normal distribution.",
        "",
        f"| configuration | {' | '.join(column.title for column in shown)} |",
        f"|---|{'---:|' * len(shown)}",
    ]
    for row in (*facts.references, facts.champion):
        name = row.label if row.label != facts.champion.label else "**this export**"
        lines.append(f"| {with_tags(name, row.tags)} | {' | '.join(_cell(row, column.metric) for column in shown)} |")
    return [*lines, *_calibration(facts)]


def _calibration(facts: Exported) -> list[str]:
    """How sure the export is beside how right, and its temperature; nothing where neither was measured."""
    sides = {"test_base": "base classes", "test_new": "new classes", "test": "all classes"}
    metrics = facts.champion.metrics
    parts = [
        f"{words} {described(metrics[f'{key}_ece'])} % and {described(metrics[f'{key}_nll'], NATS)} nats"
        for key, words in sides.items()
        if f"{key}_ece" in metrics
    ]
    lines = ["", f"{_CALIBRATION}: {'; '.join(parts)}."] if parts else []
    fit = facts.temperature
    if fit:
        lines += [
            "",
            f"Probabilities are those of the logits divided by the temperature {fit.value:.4g}, fitted on {fit.images} "
            f"validation images of trained classes. There the error of the mean over seeds goes from "
            f"{number(fit.ece_before)} to {number(fit.ece)} %, its negative log-likelihood from "
            f"{number(fit.nll_before)} to {number(fit.nll)} nats.",
        ]
    return lines


def _cell(row: Measured, metric: str) -> str:
    numbers = row.metrics.get(metric)
    return "-" if numbers is None or numbers.mean is None else described(numbers)


def described(numbers: Numbers, unit: Unit = PERCENT) -> str:
    """`84.91 ± 0.22 [84.36, 85.46]`; of a single seed `84.91`. The interval is cut off where its unit ends."""
    mean, deviation = (nan if value is None else value for value in (numbers.mean, numbers.deviation))
    text = plus_minus(Spread(mean, deviation, len(numbers.per_seed)))
    if numbers.interval is None:
        return text
    low, high = numbers.interval
    return f"{text} [{number(max(low, unit.low))}, {number(min(high, unit.high))}]"


def chosen_with(value: Objective) -> str:
    """The numbers of an objective, in the bounds of its unit."""
    return described(value, find(value.name).unit)


def _chosen(facts: Exported) -> list[str]:
    chosen = facts.chosen
    value = chosen.row.objective
    how = f"by {chosen.objective}, {chosen_with(value)} in the search" if value.mean is not None else "as the only one"
    first = f"Chosen among {chosen.trials} configurations {how}."
    if chosen.oracle:
        return [f"**oracle**: {first} That looked at test images, so the numbers above are optimistic."]
    return [
        f"{first} The search saw no test image and no new class; what it chose was then retrained on all base classes "
        "with fresh seeds, beside the configurations of the table."
    ]


def _data(facts: Exported) -> list[str]:
    draws = [f"- few-shot images of seed {seed}: `{digest}`" for seed, digest in facts.data.draws.items()]
    lead = f"{facts.data.dataset}; digests of the paths, labels and {facts.data.digests} of the images:"
    return [lead, "", *draws, f"- {facts.data.test_images} test images: `{facts.data.test}`"]


def _model(facts: Exported) -> str:
    model = facts.model
    tag = f", `{model.pretrained}`" if model.pretrained else ""
    return (
        f"{model.backbone}{tag}, weights `{model.weights}`, text width {model.width}, embedding size "
        f"{model.embedding}, logit scale {model.logit_scale:.4g}."
    )


def _commands(contents: Mapping[str, str]) -> list[str]:
    lines = ["gcsearch train config.toml        # the same numbers again", "gcsearch predict . IMAGE ..."]
    return (
        [*lines, "gcsearch landscape .              # loss and sharpness"]
        if "prompt.safetensors" in contents
        else lines
    )


def _origin(facts: Exported) -> list[str]:
    about = dict(facts.origin.environment)
    commit, dirty = about.pop("git.commit", ""), about.pop("git.dirty", "")
    lines = [f"- versions: {', '.join(f'{name} {version}' for name, version in about.items())}"]
    changed = " with changes that were not committed" if dirty == "true" else ""
    lines.append(f"- git commit of the working folder: {f'`{commit}`{changed}' if commit else 'none'}")
    run = f"run `{facts.origin.run_id}` in {facts.origin.tracking}" if facts.origin.run_id else "none"
    return [*lines, f"- MLflow: {run}", f"- digest of this export: `{facts.digest}`"]
