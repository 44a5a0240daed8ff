"""`gcsearch new`: from a folder of images to a pipeline's file, by questions or by flags."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from gcsearch.cli.render import print_pairs
from gcsearch.cli.streams import say

if TYPE_CHECKING:
    from gcsearch.cli.draft import Draft
    from gcsearch.data.survey import Protocol, Survey

T = TypeVar("T")

_FLAGS = {
    "task.dataset": "--data",
    "task.backbone": "--model",
    "task.pretrained": "--pretrained",
    "task.classes": "--classes",
    "task.shots": "--shots",
    "task.folds": "--folds",
    "search.space": "--method",
    "search.trials": "--trials",
    "search.budget.minutes": "--minutes",
    "dataset": "--dataset",
    "name": "FILE",
}
"""What a key of the pipeline is called on the command line."""


def new(
    file: Annotated[Path, typer.Argument(help="The file to write: my.toml.")],
    data: Annotated[
        str | None, typer.Option(help="A folder of images, a CSV or Parquet table, or an embedded data set's name.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(help="Which data set of the folder, where it holds several; also folder:NAME.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A name of open_clip's such as ViT-B-16, or mini.")] = None,
    pretrained: Annotated[
        str | None, typer.Option(help="Its weights: a tag such as openai, or the path of a checkpoint.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="Name of a shipped search space, or the path of one. [default: gcscoop]")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="base: train half of the classes, measure both halves; all: train all.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option(help="Training images per class. [default: what the smallest class has, at most 16]")
    ] = None,
    folds: Annotated[
        int | None, typer.Option(help="Parts of the base classes that are held out in turn. [default: at most 3]")
    ] = None,
    trials: Annotated[int | None, typer.Option(help="How many configurations to try. [default: 32]")] = None,
    minutes: Annotated[float | None, typer.Option(help="How long to search, in place of a number.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: take the defaults.")] = False,
) -> None:
    """Write a pipeline's file for your data: looks at the folder, proposes shots and folds, asks for the rest.

    Questions are asked on a terminal only; each has a flag that answers it.
    """
    from gcsearch.cli import draft

    path = draft.check_file(file, force=force)
    ask = _Questions(quiet=yes or not _on_a_terminal())
    found = _survey(ask, data, dataset)
    backbone, weights = _model(ask, found, model, pretrained)
    space = ask("Method", "--method", method, "gcscoop", _space)
    protocol = ask("Classes to train (base, all)", "--classes", classes, found.protocol, _protocol(found))
    fits = _by_keys(lambda count: found.check(protocol, count, 1))
    shots = ask("Training images per class", "--shots", shots, found.shots(protocol), _count("--shots", fits))
    fits = _by_keys(lambda count: found.check(protocol, 1, count))
    if protocol == "base" or folds:
        folds = ask("Folds of the base classes", "--folds", folds, found.folds(protocol), _count("--folds", fits))
    trials, minutes = _budget(ask, trials, minutes)
    made = draft.Draft(path, found, backbone, weights, space, protocol, shots, folds or 1, trials, minutes)
    _write(made, file)


def _on_a_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()


class _Questions:
    """Asks on stderr, again where an answer is refused; in silence takes what was given or the default."""

    def __init__(self, *, quiet: bool) -> None:
        self.quiet = quiet

    def __call__(self, question: str, flag: str, given: object, default: object, use: Callable[[Any], T]) -> T:
        """What `use` makes of the answer. InputError, naming the flag, where nothing says it."""
        from gcsearch.errors import InputError

        if given is not None:
            return use(given)
        if self.quiet:
            if default is None:
                rule = "a value is needed, and questions are asked on a terminal only"
                raise InputError(rule, key=flag, remedy=f"Add {flag}. {question}.")
            return use(default)
        while True:
            shown = None if default is None else str(default)  # of a number, typer would take nothing else
            answer = typer.prompt(question, default=shown, err=True)
            try:
                return use(answer)
            except InputError as error:
                say(str(error))


def _by_flag(error: Any, default: str = "") -> Any:
    """The same error by the flag that its key is set with."""
    from gcsearch.errors import InputError

    key = _FLAGS.get(error.key or "", error.key) or default
    return InputError(error.rule, file=error.file, key=key, received=error.received, remedy=error.remedy)


def _survey(ask: _Questions, data: str | None, dataset: str | None) -> Survey:
    from gcsearch.data import survey
    from gcsearch.errors import InputError

    chosen = dataset

    def look(where: str) -> Survey:
        nonlocal chosen
        try:
            return survey.survey(where, chosen)
        except survey.SeveralDataSets as error:
            if ask.quiet:
                raise _by_flag(error) from None
            say(f"{where} holds {', '.join(error.names)}")
            chosen = typer.prompt("Which of them", default=error.names[0], err=True)
            return look(where)
        except InputError as error:
            chosen = dataset
            raise _by_flag(error, "--data") from None

    found = ask("Data: a folder of images, a table, or an embedded name", "--data", data, None, look)
    print_pairs(found.lines())
    sys.stdout.flush()  # before the next question
    for note in found.notes:
        say(note)
    return found


def _model(ask: _Questions, found: Survey, model: str | None, pretrained: str | None) -> tuple[str, str | None]:
    """The backbone and its weights, checked by name; nothing is loaded or fetched."""
    from gcsearch.driver.checks import check_weights

    default = "mini" if found.root is None else None if ask.quiet else "ViT-B-16"
    backbone = ask("Model: a name of open_clip's, or mini, the test bed", "--model", model, default, _model_name)

    if backbone == "mini":
        _by_keys(lambda given: check_weights(backbone, given))(pretrained)
        return backbone, None

    def weights(answer: str) -> str:
        from gcsearch.clip.model import has_weights

        check_weights(backbone, answer)
        if not has_weights(backbone, answer):
            say(f"the weights {answer} are not on this machine: the first plan or run fetches them")
        return answer

    question = "Weights: a tag of open_clip's, or the path of a checkpoint"
    return backbone, ask(question, "--pretrained", pretrained, None if ask.quiet else "openai", _by_keys(weights))


def _model_name(answer: str) -> str:
    from gcsearch.clip.model import check_model
    from gcsearch.errors import InputError

    if answer.endswith((".pt", ".pth", ".bin", ".safetensors")) or Path(answer).exists():
        rule, remedy = (
            "a checkpoint needs the name of its architecture",
            f"Write --model ViT-B-16 --pretrained {answer}",
        )
        raise InputError(rule, key="--model", received=answer, remedy=f"{remedy}, for example.")
    try:
        check_model(answer)
    except InputError as error:
        raise _by_flag(error) from None
    return answer


def _space(answer: str) -> str:
    from gcsearch.config import search_space

    _by_keys(search_space.load)(answer)
    return answer


def _by_keys(use: Callable[[Any], T]) -> Callable[[Any], T]:
    """The same with errors that name flags."""
    from gcsearch.errors import InputError

    def checked(value: Any) -> T:
        try:
            return use(value)
        except InputError as error:
            raise _by_flag(error) from None

    return checked


def _protocol(found: Survey) -> Callable[[str], Protocol]:
    from gcsearch.errors import InputError

    def use(answer: str) -> Protocol:
        protocol: Protocol = "all" if answer == "all" else "base"
        if answer not in ("base", "all"):
            raise InputError("classes are base or all", key="--classes", received=answer)
        _by_keys(lambda name: found.check(name, 1, 1))(protocol)
        return protocol

    return use


def _count(flag: str, check: Callable[[int], None] = lambda _: None) -> Callable[[object], int]:
    from gcsearch.errors import InputError

    def use(answer: object) -> int:
        text = str(answer).strip()
        if not (text.isascii() and text.isdigit() and 0 < int(text) < 10**6):
            raise InputError("this is a whole number from 1 on", key=flag, received=text)
        check(int(text))
        return int(text)

    return use


def _budget(ask: _Questions, trials: int | None, minutes: float | None) -> tuple[int | None, float | None]:
    """A number of configurations, a number of minutes, or both."""
    from gcsearch.errors import InputError

    if minutes is not None and not 0 < minutes < 10**7:
        raise InputError("this is a number of minutes above 0", key="--minutes", received=minutes)
    if minutes is not None:
        return (None if trials is None else _count("--trials")(trials)), minutes

    def use(answer: object) -> tuple[int | None, float | None]:
        number, ending = str(answer).strip(), "min"
        if not number.endswith(ending):
            return _count("--trials")(number), None
        try:
            told = float(number.removesuffix(ending))
        except ValueError:
            told = 0.0
        if not 0 < told < 10**7:
            raise InputError("a time is a number of minutes, such as `30 min`", key="--minutes", received=number)
        return None, told

    return ask("Budget: a number of configurations, or a time such as `30 min`", "--trials", trials, 32, use)


def _write(made: Draft, file: Path) -> None:
    from gcsearch import files
    from gcsearch.driver.checks import test_bed_remarks

    pipeline = _by_keys(lambda draft: draft.check())(made)
    files.write_whole(made.file, made.text())
    for remark in test_bed_remarks(pipeline.task):
        say(remark)
    print(f"wrote    {file}")
    print(f"next     {shlex.join(['gcsearch', 'plan', str(file)])}")
    print(f"         {shlex.join(['gcsearch', 'run', str(file)])}")
