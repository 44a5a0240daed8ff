"""Search spaces: files that say what is wrong with them, and boxes that translate both ways."""

import random
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from gcsearch import files
from gcsearch.config.search_space import SearchSpace, find, load
from gcsearch.errors import InputError

GCSCOOP = load("gcscoop")


def space_file(folder: Path, parameters: str, points: str = "") -> Path:
    file = folder / "mine.toml"
    file.write_text(f'version = 1\nmethod = "m"\n{textwrap.dedent(parameters)}\n{textwrap.dedent(points)}')
    return file


def refusal(folder: Path, parameters: str, points: str = "") -> InputError:
    with pytest.raises(InputError) as caught:
        load(space_file(folder, parameters, points))
    return caught.value


# What a place in the boxes means


def test_boxes_have_names_of_their_own_and_the_same_bounds_for_every_trial():
    encoded = GCSCOOP.distributions()
    assert list(encoded) == ["rho_or_zero", "beta1_switch", "beta1_fraction", "beta2", "lr", "epochs"]
    assert (encoded["rho_or_zero"].low, encoded["rho_or_zero"].high) == (0.0025, 2.0)
    assert (encoded["beta1_fraction"].low, encoded["beta1_fraction"].high) == (0.0, 1.0)
    assert encoded["beta1_switch"].choices == ("on", "off")
    assert encoded["epochs"].log


def test_a_place_in_the_boxes_by_hand():
    place = {"rho_or_zero": 0.1, "beta1_switch": "on", "beta1_fraction": 0.625, "beta2": 0.8}
    place |= {"lr": 0.002, "epochs": 200}
    assert GCSCOOP.natural(place) == {"rho": 0.1, "beta1": 0.5, "beta2": 0.8, "lr": 0.002, "epochs": 200}
    assert GCSCOOP.natural(place | {"rho_or_zero": 0.0049})["rho"] == 0.0
    assert GCSCOOP.natural(place | {"rho_or_zero": 0.005})["rho"] == 0.005
    assert GCSCOOP.natural(place | {"beta1_switch": "off"})["beta1"] == "off"
    assert GCSCOOP.natural(place | {"beta1_fraction": 1.0})["beta1"] == 0.8
    assert GCSCOOP.natural(place | {"beta1_fraction": 1.0, "beta2": 1.0})["beta1"] == 0.95
    assert GCSCOOP.natural(place | {"beta2": 0.0})["beta1"] == 0.0


LITERATURE = {"rho": 0.1, "beta1": 0.5, "beta2": 0.8, "lr": 0.002, "epochs": 200}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"rho": 0.0},
        {"rho": 0.005},
        {"rho": 2.0},
        {"beta1": "off"},
        {"beta1": "off", "beta2": 0.0},
        {"beta1": 0.8},
        {"beta1": 0.0},
        {"beta1": 0.0, "beta2": 0.0},
        {"beta1": 0.95, "beta2": 0.95},
        {"beta1": 0.95, "beta2": 1.0},
        {"beta1": 0.123456, "beta2": 0.987654},
        {"epochs": 10, "lr": 0.0005},
    ],
)
def test_natural_values_survive_the_way_through_the_boxes(changed):
    natural = LITERATURE | changed
    internal = GCSCOOP.internal(natural)
    assert GCSCOOP.natural(internal) == natural
    for name, box in GCSCOOP.distributions().items():
        assert box._contains(box.to_internal_repr(internal[name])), name


def random_place(generator: random.Random) -> dict:
    return {
        "rho_or_zero": 0.0025 * 800 ** generator.random(),
        "beta1_switch": generator.choice(["on", "off"]),
        "beta1_fraction": generator.choice([0.0, 1.0, generator.random()]),
        "beta2": generator.choice([0.0, 1.0, generator.random()]),
        "lr": 0.0005 * 40 ** generator.random(),
        "epochs": generator.randint(10, 200),
    }


def test_every_place_means_something_allowed_that_leads_back_to_itself():
    generator = random.Random(0)
    zeros = 0
    for _ in range(2000):
        natural = GCSCOOP.natural(random_place(generator))
        assert natural["beta1"] == "off" or 0 <= natural["beta1"] <= min(natural["beta2"], 0.95)
        assert GCSCOOP.parse(natural) == natural
        assert GCSCOOP.natural(GCSCOOP.internal(natural)) == natural
        zeros += natural["rho"] == 0
    assert 0.08 < zeros / 2000 < 0.13  # ln 2 / ln 800 = 0.104


def test_bounds_may_be_chained_and_every_kind_of_parameter_mixed(tmp_path):
    file = space_file(
        tmp_path,
        """
        [parameters.a]
        low = 0.0
        high = 1.0
        at_most = "b"
        [parameters.b]
        low = 0.0
        high = 0.9
        at_most = "c"
        [parameters.c]
        value = 0.5
        [parameters.words]
        choices = ["a photo of a", ""]
        [parameters.n]
        low = 1
        high = 16
        integer = true
        off = true
        """,
        """
        [[points]]
        label = "p"
        a = 0.1
        b = 0.4
        words = ""
        n = 4
        """,
    )
    space = load(file)
    point = space.points[0]
    assert point.values == {"a": 0.1, "b": 0.4, "c": 0.5, "words": "", "n": 4}
    assert space.internal(point.values) == {
        "a_fraction": 0.25, "b_fraction": 0.8, "words": "", "n_switch": "on", "n": 4,
    }  # fmt: skip
    assert space.natural(space.internal(point.values)) == point.values
    off = point.values | {"n": "off"}
    assert space.natural(space.internal(off)) == off
    assert set(space.distributions()) == set(space.internal(point.values))
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_a_value_written_as_an_integer_is_run_as_the_float_it_is(tmp_path):
    parameters = "[parameters.lr]\nlow = 0\nhigh = 2"
    space = load(space_file(tmp_path, parameters, '[[points]]\nlabel = "p"\nlr = 1'))
    assert repr(space.points[0].values["lr"]) == "1.0"


# What is refused


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            "[parameters.rho]\nlow = 2.0\nhigh = 0.005",
            "parameters.rho: `low < high` must hold, got low=2, high=0.005.",
        ),
        ("[parameters.rho]\nlow = 0.0\nhigh = 1.0\nlog = true", "parameters.rho.low: `low` must be above 0"),
        ("[parameters.rho]\nlow = 0\nhigh = 1\nlgo = true", "parameters.rho.lgo: the key must be one of the known"),
        ("[parameters.rho]\nlow = 0.1", "parameters.rho.high: this key is required"),
        ("[parameters.rho]\nlow = '0.1'\nhigh = 1", "parameters.rho.low: input should be a valid number"),
        ("[parameters.rho]\nlow = 0.1\nhigh = inf", "parameters.rho.high: input should be a finite number"),
        ("[parameters]\nrho = 0.1", "parameters.rho: a parameter must be a table, got 0.1."),
        ("[parameters.n]\nlow = 1.5\nhigh = 3\ninteger = true", "bounds of an integer must be whole numbers"),
        ("[parameters.a]\nlow = 0\nhigh = 1\nzero = true", "parameters.a.zero: `zero` needs a log axis"),
        ("[parameters.a]\nchoices = [1]", "parameters.a.choices: list should have at least 2 items"),
        ("[parameters.a]\nchoices = [1, 1]", "parameters.a.choices: choices must be distinct, got [1, 1]."),
        ("[parameters.a]\nlow = 0\nhigh = 1\nat_most = 'bb'\n[parameters.b]\nvalue = 1",
         "parameters.a.at_most: the parameter must be one of the known names, got 'bb'.\nDid you mean 'b'?"),
        ("[parameters.a]\nlow = 0\nhigh = 1\nat_most = 'b'\n[parameters.b]\nlow = 0\nhigh = 1\nat_most = 'a'",
         "`at_most` must not lead back to the same parameter, got a -> b -> a."),
        ("[parameters.a]\nlow = 0\nhigh = 1\nat_most = 'b'\n[parameters.b]\nlow = 0\nhigh = 1\noff = true",
         "parameters.a.at_most: `at_most` must name a parameter that is always a number, got b."),
        ("[parameters.a]\nlow = 0.5\nhigh = 1\nat_most = 'b'\n[parameters.b]\nlow = 0\nhigh = 1",
         "parameters.a.low: `low` of a must not be above the least value of b"),
        ("[parameters.a]\nlow = 0.5\nhigh = 1\nlog = true\nat_most = 'b'\n[parameters.b]\nvalue = 1",
         "parameters.a.at_most: `at_most` needs a linear axis"),
        ("[parameters.a]\nlow = 0\nhigh = 1\noff = true\n[parameters.a_switch]\nvalue = 1",
         "parameters.a_switch: a parameter must not have the name of another one's distribution"),
    ],
)  # fmt: skip
def test_a_wrong_parameter_is_refused_by_file_key_and_rule(tmp_path, parameters, message):
    error = refusal(tmp_path, parameters)
    assert message in str(error)
    assert error.file == str(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ("lr = 3.0", "points.0.lr: the value must be a number from 0.1 to 1, got 3.0."),
        ("lr = 0.0", "points.0.lr: the value must be a number from 0.1 to 1, got 0.0."),
        ("lr = 'off'", "points.0.lr: the value must be a number from 0.1 to 1, got off."),
        ("lr = true", "points.0.lr: the value must be a number from 0.1 to 1, got True."),
        ("lrr = 0.5", "points.0.lrr: the parameter must be one of the known names, got 'lrr'."),
        ("", "points.0.lr: every parameter of the space needs a value"),
        ("lr = 0.5\nn = 1.5", "points.0.n: the value must be a whole number, got 1.5."),
        ("lr = 0.5\nfixed = 2", "points.0.fixed: the value must be the fixed 1, got 2."),
        ("lr = 0.5\nlow = 0.6", "points.0.low: low <= lr must hold, got 0.6 > 0.5."),
    ],
)
def test_a_point_outside_the_space_is_refused(tmp_path, point, message):
    parameters = """
    [parameters.lr]
    low = 0.1
    high = 1.0
    [parameters.n]
    low = 1
    high = 3
    integer = true
    [parameters.fixed]
    value = 1
    [parameters.low]
    low = 0.0
    high = 1.0
    at_most = "lr"
    """
    given = point if "n =" in point or "lr =" not in point else f"{point}\nn = 2"
    given = given if "low =" in given or "lr =" not in given else f"{given}\nlow = 0.05"
    assert message in str(refusal(tmp_path, parameters, f'[[points]]\nlabel = "p"\n{given}'))


def test_broken_toml_is_reported_with_its_line(tmp_path):
    error = refusal(tmp_path, "[parameters.lr]\nlow = 0.1\nhigh 1.0")
    assert "mine.toml: the file must be valid TOML" in str(error)
    assert "line 5" in str(error)


def test_an_unknown_key_at_the_top_names_the_nearest(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text('version = 1\nmethod = "sam"\npiont = 1\n')
    with pytest.raises(InputError, match=r"piont: the key must be .*(?s:.)*Did you mean 'points'"):
        load(file)


# Where files are found


def test_shipped_names_and_paths_are_found():
    path = files.shipped("search_spaces")["gcscoop"]
    assert find("gcscoop") == path
    assert load(path) == load("gcscoop") == load(str(path))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"(?s)got 'gcscop'.*Did you mean 'gcscoop'\? Known: any-method, asam"):
        load("gcscop")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"missing\.toml, search\.space: the search space file must exist"):
        load(tmp_path / "missing.toml")


def test_reading_a_space_needs_neither_optuna_nor_torch():
    code = (
        "import sys; from gcsearch.config.search_space import load; load('gcscoop'); "
        "print('optuna' in sys.modules, 'torch' in sys.modules)"
    )
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert seen.stdout.split() == ["False", "False"]
