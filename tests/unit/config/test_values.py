"""Values that cannot run are refused before anything starts: by key, in words, within moments, without a traceback."""

from __future__ import annotations

from dataclasses import replace

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.config.pipeline import Resources
from gcsearch.config.task import Task
from gcsearch.config.trials import TrialConfig
from gcsearch.driver import load, matrix
from gcsearch.errors import InputError, unknown_name
from gcsearch.execution.placement import check_threads, place
from gcsearch.methods import registry
from gcsearch.training import task_checks

HUGE = ("1000000000000", "9" * 400, "99999999999999999999", "inf", "nan", "-1", "1.5", "true", '"many"', "[1]")
COUNTS = (
    *("task.shots", "task.val_shots", "task.folds", "task.views"),
    *("search.trials", "search.pack", "search.generation", "search.startup", "search.eta", "search.rungs"),
    *("search.checkpoint_every", "search.max_failed", "search.budget.failed", "search.budget.no_gain"),
    *("search.grid.rho", "search.seed", "resources.workers", "resources.threads", "resources.decoders"),
    *("confirm.top", "evaluate_every"),
)
REALS = ("search.first_rung", "search.budget.minutes", "search.budget.device_seconds", "resources.gpus_per_worker")
NAMES = ("name", "task.dataset", "task.root", "task.backbone", "task.pretrained", "task.other_names", "search.space")

NESTED = ("[" * 3000 + "]" * 3000, "{a=" * 3000 + "1" + "}" * 3000, "[" * 40 + "]" * 40)


def refusal(key: str, value: str) -> InputError:
    """What a pipeline with `value` at `key` is refused with."""
    with pytest.raises(InputError) as refused:
        matrix.load("demo", {key: value})
    assert len(str(refused.value)) < 2000
    assert all(character.isprintable() or character == "\n" for character in str(refused.value))
    return refused.value


@pytest.mark.parametrize("key", COUNTS)
def test_a_count_is_a_whole_number_that_a_machine_can_hold(key):
    for value in HUGE:
        assert (refusal(key, value).key or "").startswith(key)


@pytest.mark.parametrize("key", REALS)
def test_a_quantity_is_finite(key):
    for value in ("inf", "-inf", "nan", "9" * 400, "-1", "-0.5"):
        assert refusal(key, value).key == key


@pytest.mark.parametrize("key", NAMES)
def test_a_name_has_characters_and_no_control_characters(key):
    for value in ('""', r'"a\u0000b"', r'"\u001b[31m"', "a\udcffb", "5", "inf", "[]"):
        assert refusal(key, value).key == key


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("search.seed", str(2**32), "search.seed: input should be less than or equal to 4294967295"),
        ("task.seeds", f"[{2**63}]", "task.seeds.0: input should be less than or equal to 9223372036854775807"),
        ("confirm.seeds", "[99999999999999999999999]", "confirm.seeds.0: "),
        ("task.seeds", str(list(range(2000))), "task.seeds: list should have at most 1000 items"),
        ("search.cap", "{epochs=inf}", "search.cap.epochs: input should be a finite number"),
        ("search.cap", "{gcscoop={epochs=nan}}", "search.cap.gcscoop"),
        ("search.cap", "{epochs=0}", "search.cap.epochs: input should be greater than or equal to 1, got 0"),
        ("search.cap", "{epochs=0.5}", "search.cap.epochs: "),
        ("search.cap", "{gcscoop={lr=-1}}", "search.cap.lr: input should be greater than 0"),
        ("search.cap", "{rho=-1}", "search.cap.rho: "),
        ("search.budget", "5", "search.budget: input should be a table"),
        ("task.targets", '"x"', "task.targets: input should be a list"),
        ("task.exif", "1", "task.exif: input should be true or false"),
        ("tracking.uri", '"http://a b:5"', "tracking.uri: the address of a store has no spaces"),
        ("resources.memory", f'"{"9" * 400} GiB"', "resources.memory: a memory size is a number with a unit"),
        ("task.template", '"{x} {}"', "task.template: a template must contain {} exactly once, and no other braces"),
        ("task.template", '"a {} }"', "task.template: "),
        ("task.also", '[""]', "task.also.0: "),
        ("search.warm_start", '[""]', "search.warm_start.0: "),
        ("tracking.experiment", '""', "tracking.experiment: "),
        ("tracking.uri", '""', "tracking.uri: "),
        ("a\x00b\x1b[31m", "1", r"a\\x00b\\x1b\[31m: the key must be one of the known names"),
        (".".join("a" * 3000), "1", "a: the key must be one of the known names"),
    ],
)
def test_a_value_that_cannot_run_is_named(key, value, named):
    assert named.replace("\\", "") in str(refusal(key, value)).replace("\\", "")


@pytest.mark.parametrize("nested", NESTED)
def test_tables_and_lists_without_end_are_refused_in_a_file_and_on_the_command_line(nested, tmp_path):
    (tmp_path / "deep.toml").write_text(f"x = {nested}\n")
    with pytest.raises(InputError, match=r"deep\.toml.*nested more than 16 deep"):
        matrix.load(tmp_path / "deep.toml")
    assert "nested more than 16 deep" in str(refusal("x", nested))


def test_dotted_keys_without_end_are_refused(tmp_path):
    (tmp_path / "deep.toml").write_text(f"[{'.'.join('a' * 3000)}]\nb = 1\n")
    with pytest.raises(InputError, match="nested more than 16 deep"):
        matrix.load(tmp_path / "deep.toml")


def test_a_number_of_thousands_of_digits_is_no_toml(tmp_path):
    (tmp_path / "long.toml").write_text(f"evaluate_every = {'9' * 5000}\n")
    with pytest.raises(InputError, match=r"long\.toml: the file must be valid TOML"):
        matrix.load(tmp_path / "long.toml")


def test_a_matrix_of_millions_is_refused_before_it_is_multiplied(tmp_path):
    axis = list(range(1, 1001))
    text = f'[matrix]\n"search.seed" = {axis}\n"search.trials" = {axis}\n"task.views" = {axis}\n'
    (tmp_path / "many.toml").write_text(text)
    with pytest.raises(InputError, match=r"matrix: a matrix is at most 10000 sweeps, got 1000000000"):
        matrix.load(tmp_path / "many.toml")


@pytest.mark.parametrize(
    ("table", "named"),
    [
        ("[parameters.rho]\nlow = 0.1\nhigh = inf", "parameters.rho.high: input should be a finite number"),
        ("[parameters.rho]\nvalue = nan", "parameters.rho.value"),
        ("[parameters.rho]\nchoices = [0.1, inf]", "parameters.rho.choices.1"),
        (f"[parameters.rho]\nlow = 0.1\nhigh = {'9' * 400}", "parameters.rho.high"),
        ("[parameters.rho]\nlow = 0.1\nhigh = 1e308\nlog = true", "parameters.rho.high"),
        ("[parameters.epochs]\nlow = 1\nhigh = 1000000000\ninteger = true", "parameters.epochs: input should be less"),
        ("[parameters.batch_size]\nvalue = 1000000000000", "parameters.batch_size"),
        ("[parameters.n_ctx]\nvalue = 1000000", "parameters.n_ctx"),
        ("[parameters.beta1]\nlow = 0.0\nhigh = 1.0", "parameters.beta1: beta1 must not exceed beta2"),
        ("[parameters.beta2]\nvalue = 0.3", "parameters.beta2: beta1 must not exceed beta2"),
        ('[[points]]\nlabel = "x"\nrho = inf\n[parameters.rho]\nlow = 0.0\nhigh = 1.0', "points.0.rho: "),
        ('[[points]]\nlabel = ""\nrho = 0.5\n[parameters.rho]\nlow = 0.0\nhigh = 1.0', "points.0.label"),
        ('[parameters."a\\u0007"]\nlow = 0.0\nhigh = 1.0', "parameters: a text must not have control characters"),
    ],
)
def test_a_space_with_a_value_that_cannot_run_is_refused(table, named, tmp_path):
    space = tmp_path / "space.toml"
    space.write_text(f'version = 1\nmethod = "gcscoop"\n{table}\n')
    assert f"space.toml, {named}" in str(refusal("search.space", f'"{space}"'))


def test_a_bound_that_needs_another_one_is_kept_where_the_space_has_it(tmp_path):
    space = tmp_path / "space.toml"
    upper = "[parameters.beta2]\nlow = 0.0\nhigh = 1.0\n"
    related = f'version = 1\nmethod = "gcscoop"\n[parameters.beta1]\nlow = 0.0\nhigh = 1.0\nat_most = "beta2"\n{upper}'
    space.write_text(related)
    assert matrix.load("demo", {"search.space": f'"{space}"', "confirm.references": "[]"}).single


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.2), (1.0, 0.8), (0.5, 0.3), (-0.5, -1.0)])
def test_the_lower_bound_does_not_exceed_the_upper_one(beta1, beta2, tmp_path):
    with pytest.raises(InputError, match=r"gcscoop\.beta1: beta1 must not exceed beta2"):
        registry.build(TrialConfig(method="gcscoop", hyperparameters={"beta1": beta1, "beta2": beta2}))
    file = tmp_path / "config.toml"
    file.write_text(f'[trial]\nmethod = "gcscoop"\nhyperparameters = {{beta1 = {beta1}, beta2 = {beta2}}}\n')
    with pytest.raises(InputError, match=r"config\.toml, gcscoop\.beta1: beta1 must not exceed beta2"):
        load.load_trial(file)


@pytest.mark.parametrize("flags", ["--threads 100000", f"--seeds {2**63}", "--seeds ,", "--seeds -1"])
def test_flags_of_one_configuration_have_the_same_limits(flags):
    done = CliRunner().invoke(app, ["trial", "--set", "method=coop", *flags.split()])
    assert isinstance(done.exception, InputError)


def test_more_threads_than_the_cores_carry_are_refused():
    check_threads(16, 1, key="threads")
    check_threads(64, 16, key="threads")
    with pytest.raises(InputError, match=r"threads: a process has at most 64 threads on a machine with 16 cores"):
        check_threads(65, 16, key="threads")


def test_a_template_that_does_not_fit_the_model_is_refused_for_the_longest_name(laboratory):
    task_checks.check_template(laboratory, ensemble=True)
    words = Task(**laboratory.task.to_dict() | {"template": "word " * 73 + "{}"})
    with pytest.raises(
        InputError,
        match=r"task\.template: .* must fit into 75 tokens, got 76 tokens for",
    ):
        task_checks.check_template(replace(laboratory, task=words))


def test_more_workers_than_the_cores_carry_are_refused():
    assert place(Resources(workers=8, threads=2), cores=1, gpus=0, generation=2).workers == 8
    with pytest.raises(InputError, match=r"resources\.workers: all workers together have at most 64 threads here"):
        place(Resources(workers=1000), cores=2, gpus=0, generation=2)


def test_a_misspelt_name_is_told_whatever_its_letters_are():
    for written in ("vit-b/16", "VIT-B-16", "vitb16"):
        assert "Did you mean 'ViT-B-16'?" in str(unknown_name("backbone", written, ["ViT-S-16", "ViT-B-16", "RN50"]))


@pytest.mark.parametrize(("dataset", "key"), [("nosuch", "task.dataset"), ("folder:birds", "task.root")])
def test_a_single_configuration_is_told_which_data_set_it_lacks_before_anything_else(dataset, key):
    result = CliRunner().invoke(app, ["trial", "--dataset", dataset])
    assert isinstance(result.exception, InputError)
    assert result.exception.key == key
    assert not result.output
