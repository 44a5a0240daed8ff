"""What a caller can ask for: run, resume, extend, confirm, cancel, sync, cache a sweep; train one configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from gcsearch import files
from gcsearch.config.pipeline import Confirm, Pipeline, SearchConfig
from gcsearch.config.provenance import cores, process_name
from gcsearch.config.search_space import SearchSpace
from gcsearch.config.trials import Proposal, TrialFile, TrialRecord
from gcsearch.driver import session
from gcsearch.driver.checks import check, test_bed_remarks
from gcsearch.driver.load import given, load_trial, with_command_paths
from gcsearch.driver.prepare import check_data, check_not_cancelled, check_same, origin_texts, prepare
from gcsearch.driver.session import Session, guarded, judge
from gcsearch.errors import InputError
from gcsearch.execution import machines
from gcsearch.execution.executor import ExecutorName, check_executor
from gcsearch.execution.local_ray import daemons
from gcsearch.execution.placement import check_threads
from gcsearch.methods import registry
from gcsearch.sweep.callbacks import Callback
from gcsearch.sweep.journal import SessionEnd
from gcsearch.sweep.lease import Driver, LeaseState, Request, ask, driving
from gcsearch.sweep.store import PIPELINE_FILE, Store, explaining_cache_errors
from gcsearch.sweep.sweep import Sweep, open_form, open_sweep

# --- Running ------------------------------------------------------------------------------------------


def run(
    pipeline: Pipeline | str | Path,
    *,
    store: str | Path | None = None,
    overrides: Mapping[str, str] | None = None,
    quick: bool = False,
    fresh: bool = False,
    callback: Callback | None = None,
    executor: ExecutorName = "ray",
) -> Sweep:
    """Search, choose, confirm, report. A sweep that was interrupted goes on; one that is over is returned.

    Args:
        pipeline: a shipped name, a path, or a `Pipeline`.
        store: folder of sweeps and the embedded MLflow store, see `gcsearch.sweep.store`.
        overrides: dotted keys with TOML values, as `--set` gives them.
        quick: with the file's table [quick] and under a name that says so.
        fresh: begin anew; the former sweep of this name is kept beside it as NAME.1, NAME.2, ...
        callback: told of progress.
        executor: where trials run: "ray", or "local" for this process, which gives the same numbers without Ray, one
            batch after another, and shows an exception of your code with its own traceback. No part of the sweep: it
            may go on with another one.

    Raises:
        InputError: something in the pipeline is wrong, or a sweep of this name was made from another one.
        RunError: no trial completed. TooManyFailures: more failed than `search.max_failed`; results are kept.
    """
    check_executor(executor)
    pipeline = given(pipeline, overrides, quick=quick)
    space, uri = check(pipeline), pipeline.tracking.uri
    pipeline = open_form(pipeline)
    located, listener = Store.locate(store), callback or Callback()
    with _driving(located, pipeline.name, listener) as driver:
        texts, known = origin_texts(pipeline), Sweep.named(pipeline.name, located)
        if not fresh:
            check_same(pipeline, known, texts)
            check_not_cancelled(known)
            if known.state.finished:
                return _judged(known, pipeline)
        begin = partial(_open_or_begin, pipeline, located, texts, fresh, uri)
        return _drive(
            driver, pipeline, space, located, begin, listener, known=None if fresh else known, executor=executor
        )


def _driving(store: Store, name: str, callback: Callback) -> AbstractContextManager[Driver]:
    """Drive the sweep `name` for the time of a block, see `lease.driving`; InputError where nothing can be written."""
    store.check_writable()
    return driving(store.lease(name), f"the sweep {name}", callback.warn)


def _judged(sweep: Sweep, pipeline: Pipeline) -> Sweep:
    """The finished sweep. It ends as it did before: whoever repeats a failed job must not take it for a success."""
    judge(sweep, pipeline.search.max_failed)
    return sweep


def _drive(
    driver: Driver,
    pipeline: Pipeline,
    space: SearchSpace,
    store: Store,
    begin: Callable[[], Sweep],
    callback: Callback,
    *,
    known: Sweep | None,
    executor: ExecutorName,
    added: Sequence[int] = (),
) -> Sweep:
    """Make ready what `pipeline` runs on, and take the sweep that `begin` gives through all stages.

    `known` is that sweep as it was begun earlier, None for a fresh one. `added` are seeds of the confirmation that
    `begin` adds to those that the sweep has.
    """
    for remark in test_bed_remarks(pipeline.task):
        callback.warn(remark)
    if pipeline.search.warm_start and not (known and known.state.before):
        session.gather(pipeline, space, store)  # what it refuses is refused before anything is encoded
    check_executor(executor)
    where = machines.find_machines(pipeline, local=executor == "local")
    if executor == "ray":
        machines.check_here(where)
    asked = [seed for batch in (known.state.seeds if known else ()) for seed in batch]
    seeds = pipeline.confirm.model_copy(update={"seeds": (*pipeline.confirm.seeds, *asked, *added)})
    with daemons.explaining_lost_ray("The same command goes on"), machines.joined(where):
        # Before anything is written: what is refused here leaves nothing behind.
        with explaining_cache_errors():
            data = prepare(pipeline.model_copy(update={"confirm": seeds}), space, store, where, callback, known)
        sweep = begin()
        sweep.hide_address()
        callback.begun(sweep)
        chosen = machines.make_executor(executor, where.placement, sweep.folder)
        Session(sweep, pipeline, space, where, callback, driver, chosen, data).run()
    return sweep


def resume(
    name: str,
    *,
    store: str | Path | None = None,
    callback: Callback | None = None,
    executor: ExecutorName = "ray",
) -> Sweep:
    """Go on with the sweep `name`, from what its folder states alone; one that is over is returned.

    Also a cancelled one: who names it here wants it after all.

    Raises:
        InputError: there is no such sweep, somebody drives it, or what it was begun from does not hold here.
        RunError, TooManyFailures: as `run`.
    """
    check_executor(executor)
    found, listener = open_sweep(name, store), callback or Callback()
    if found.state.finished:
        return _judged(found, found.pipeline)
    pipeline, space = _as_begun(found)
    with _driving(found.store, name, listener) as driver:
        return _drive(driver, pipeline, space, found.store, lambda: found, listener, known=found, executor=executor)


def _as_begun(sweep: Sweep) -> tuple[Pipeline, SearchSpace]:
    """What the sweep was begun from, checked anew."""
    pipeline, file = sweep.as_begun, sweep.folder / PIPELINE_FILE
    for key in ("root", "other_names"):
        path = getattr(pipeline.task, key)
        if path and not Path(path).is_absolute() and not path.startswith("~"):
            raise InputError(
                "a former version kept this path relative to a folder that is not known any more",
                file=file,
                key=f"task.{key}",
                received=path,
                remedy="Write the whole path in this file.",
            )
    try:
        return with_command_paths(pipeline), check(pipeline)
    except InputError as error:
        raise error.at(file=file) from None


def _reopened(sweep: Sweep, driver: Driver, kind: str, **asked: object) -> Sweep:
    """The finished sweep with a line in its journal that gives it something to do again."""
    guarded(sweep, driver).append(kind, **asked)
    return sweep


def is_finished(pipeline: Pipeline, store: str | Path | None = None) -> bool:
    """Whether the sweep of this name has been through all stages."""
    return Sweep.named(pipeline.name, Store.locate(store)).state.finished


def extend(
    name: str,
    trials: int,
    *,
    store: str | Path | None = None,
    callback: Callback | None = None,
    executor: ExecutorName = "ray",
) -> Sweep:
    """Try `trials` more configurations in the finished sweep `name`, then choose and confirm again.

    They are proposed from all that the sweep knows. What was confirmed already is not confirmed again. A killed
    extension goes on as any sweep does.

    Raises:
        InputError: there is no such sweep, it is not finished, or what it was begun from does not hold here.
        RunError, TooManyFailures: as `run`.
    """
    found, listener = open_sweep(name, store), callback or Callback()
    pipeline, space = _as_begun(found)
    with _driving(found.store, name, listener) as driver:
        _check_extensible(found, space, trials)
        there = len(found.state.records)
        begin = partial(_reopened, found, driver, "extend", trials=there + trials, there=there)
        return _drive(driver, pipeline, space, found.store, begin, listener, known=found, executor=executor)


def _check_extensible(sweep: Sweep, space: SearchSpace, trials: int) -> None:
    if not sweep.state.finished:
        raise InputError(
            "only a finished sweep can be extended",
            file=sweep.folder,
            remedy=f"Finish it with `{sweep.command('resume')}`.",
        )
    for count in (trials, sweep.trials + trials):
        SearchConfig.from_dict({"trials": count}, file="--trials")
    if not space.searched:
        raise InputError("a space with nothing to search has one configuration only", file=sweep.folder / "space.toml")


def confirm(
    name: str,
    seeds: Sequence[int],
    *,
    store: str | Path | None = None,
    callback: Callback | None = None,
    executor: ExecutorName = "ray",
) -> Sweep:
    """Measure the confirmed configurations of a finished sweep with more seeds, and choose and judge anew by all of
    them.

    What was measured before stays and counts.

    Raises:
        InputError: the sweep is not finished, or a seed was used already.
        RunError: a configuration could not be measured.
    """
    found, listener = open_sweep(name, store), callback or Callback()
    added = tuple(seeds)
    pipeline, space = _as_begun(found)
    with _driving(found.store, name, listener) as driver:
        _check_added(found, added)
        begin = partial(_reopened, found, driver, "seeds", seeds=list(added))
        return _drive(
            driver, pipeline, space, found.store, begin, listener, known=found, added=added, executor=executor
        )


def _check_added(sweep: Sweep, seeds: tuple[int, ...]) -> None:
    if not sweep.state.finished:
        remedy = f"Finish it first: `{sweep.command('resume')}`."
        raise InputError("seeds are added to a finished sweep", file=sweep.folder, remedy=remedy)
    # As of a pipeline: what is written to the journal now is what every later command goes on from.
    Confirm.from_dict({"seeds": list(seeds)}, file="--seeds")
    used = {*sweep.pipeline.task.seeds, *(seed for batch in sweep.confirmed_seeds for seed in batch)}
    if used & set(seeds):
        raise InputError(
            "added seeds are new to the sweep",
            key="--seeds",
            received=list(seeds),
            remedy=f"Used already: {', '.join(map(str, sorted(used)))}.",
        )


def cache_features(
    pipeline: Pipeline | str | Path,
    *,
    store: str | Path | None = None,
    overrides: Mapping[str, str] | None = None,
    callback: Callback | None = None,
) -> None:
    """Compute the features that the pipeline's search and confirmation read, and do no more.

    `store` is where the sweep will be: all nodes of a cluster must share it.

    Raises:
        InputError: something in the pipeline is wrong, or images are missing or unreadable: all of them are named.
    """
    pipeline = open_form(given(pipeline, overrides))
    space, where = check(pipeline), machines.find_machines(pipeline)
    with machines.joined(where), explaining_cache_errors():
        prepare(pipeline, space, Store.locate(store), where, callback or Callback())


def _open_or_begin(pipeline: Pipeline, store: Store, texts: Mapping[str, str], fresh: bool, uri: str | None) -> Sweep:
    folder = store.sweep(pipeline.name)
    if folder.exists() and fresh:
        folder.rename(_free_name(folder))
    for name, text in texts.items():
        if not (folder / name).exists() or files.read_text(folder / name) != text:  # it may go on elsewhere
            files.write_whole(folder / name, text)
    sweep = Sweep.named(pipeline.name, store)
    sweep.keep_address(uri)
    return sweep


def _free_name(folder: Path) -> Path:
    number = 1
    while (other := folder.with_name(f"{folder.name}.{number}")).exists():
        number += 1
    return other


def stop(name: str, *, store: str | Path | None = None) -> LeaseState | None:
    """Let the running sweep `name` finish what has begun and then end; `run` and `resume` go on with it later.

    Returns the driver that was asked to do so, on whatever host; None where nobody drives the sweep.

    Raises:
        InputError: there is no such sweep.
    """
    return ask(open_sweep(name, store).store.lease(name), Request.STOP)


def cancel(name: str, *, store: str | Path | None = None) -> LeaseState | None:
    """End the sweep `name` now; `run` does not go on with it any more, `resume` does.

    Returns the driver that was asked to do so; None where nobody drives the sweep and it is marked at once.

    Raises:
        InputError: there is no such sweep, or it is finished.
    """
    sweep = open_sweep(name, store)
    lease = sweep.store.lease(name)
    if asked := ask(lease, Request.CANCEL):
        return asked
    if sweep.state.finished:
        raise InputError("a finished sweep cannot be cancelled", file=sweep.folder, received=name)
    with driving(lease, f"the sweep {name}") as driver:
        if sweep.state.end is not SessionEnd.CANCELLED:
            guarded(sweep, driver).append("close", why=SessionEnd.CANCELLED)
    return None


def sync(name: str, *, store: str | Path | None = None, callback: Callback | None = None) -> int:
    """Write to MLflow what it lacks of the sweep `name`; returns how many runs were written.

    Raises:
        InputError: there is no such sweep, or it is running: its driver does this itself.
        RunError: MLflow does not answer.
    """
    from gcsearch.tracking.sync import MlflowSync

    sweep, listener = open_sweep(name, store), callback or Callback()
    with _driving(sweep.store, name, listener) as driver:
        return MlflowSync(sweep, guarded(sweep, driver), listener.warn, listener.repaired).sync()


# --- One configuration, no search -----------------------------------------------------------------------


@explaining_cache_errors()
def train(
    trial: TrialFile | str | Path,
    callback: Callback | None = None,
    limit: int | None = None,
) -> TrialRecord:
    """Train and measure one configuration in this process, with the threads that it states.

    `trial` may be the path of a file, or of an export: then on the data and the model that this was measured on alone.
    `limit` is what this process may take, in bytes; None: what is free.

    Raises:
        InputError: the file is wrong, or the data or weights of an export are others than they were.
    """
    import torch

    from gcsearch.export import classifier
    from gcsearch.sweep import measured
    from gcsearch.training import loading, task_checks, task_data
    from gcsearch.training.trial import run_pack

    export = None if isinstance(trial, TrialFile) else _export_of(Path(trial))
    trial = trial if isinstance(trial, TrialFile) else load_trial(trial)
    method, callback = registry.build(trial.trial), callback or Callback()
    check_threads(trial.threads, cores(), key="threads")
    for remark in test_bed_remarks(trial.task):
        callback.warn(remark)
    threads = torch.get_num_threads()
    torch.set_num_threads(trial.threads)
    try:
        callback.stage("data")
        loading.forget()
        task_data.data_root(trial.task, callback.progress)
        lab = loading.laboratory(trial.task)
        task_checks.check_names(lab)
        lab.check_lists(trial.stage)
        check_data(lab, [(trial.stage, trial.seeds)], callback)
        task_checks.check_template(lab, ensemble=bool(method.template and method.template.ensemble))
        if export:
            measured.check_attested(classifier.read_facts(export), lab, trial.seeds, export)
        callback.stage("features")
        episodes = lab.episodes(trial.stage, trial.seeds, callback.progress)
        callback.stage("train", method.epochs or None)
        (done,) = run_pack(
            lab,
            episodes,
            [Proposal(number=0, config=registry.complete(trial.trial))],
            evaluate_every=trial.evaluate_every,
            on_reports=callback.reports,
            worker=process_name(),
            limit=limit,
        )
    finally:
        torch.set_num_threads(threads)
    return done.record


def _export_of(path: Path) -> Path | None:
    """The folder of the export that `path` is, or is the configuration of; None where it is a file of its own."""
    folder = path if path.is_dir() else path.parent
    return folder if (folder / "metrics.json").exists() else None
