"""Spaces in which a parameter is there only beside others: conditions, several methods, and who reads them."""

import json
import random

import pytest

from gcsearch.config.parameters import extremes
from gcsearch.config.pipeline import Pipeline, SearchConfig
from gcsearch.config.search_space import SearchSpace, load
from gcsearch.config.trials import Outcome, Proposal, TrialConfig
from gcsearch.driver import checks
from gcsearch.errors import InputError
from gcsearch.methods.registry import build, complete
from gcsearch.results.ranking import front, rank
from gcsearch.results.report.responses import importances, responses
from gcsearch.results.tables.wording import searched
from gcsearch.search import samplers, warm_start
from gcsearch.search.proposer import Proposer
from gcsearch.training.trial import run_pack
from tests.support.bowl import SETTINGS, Bowl, configs, drive, search

ANY = load("any-method")
OWN = {
    "coop": set(),
    "kgcoop": {"kg_lambda"},
    "prograd": {"prograd_lambda", "temperature"},
    "sam": {"rho"},
    "gcscoop": {"rho", "beta1", "beta2"},
}
COMMON = {"method", "lr", "epochs"}


def space(parameters, **others):
    return SearchSpace.from_dict({"version": 1, "method": "m", "parameters": parameters} | others)


CHAIN = space(
    {
        "depth": {"low": 1, "high": 4, "integer": True, "when": {"net": True, "kind": ["a", "b"]}},
        "net": {"choices": [True, False], "when": {"kind": ["b", "c"]}},
        "kind": {"choices": ["a", "b", "c"]},
        "decay": {"low": 0.1, "high": 0.9, "off": True},
        "power": {"low": 0.0, "high": 1.0, "when": {"decay": "on"}},
        "seed": {"value": 3, "when": {"decay": "off"}},
    }
)


def places(chosen, count, seed=0):
    """Places all over the boxes, their ends included."""
    generator = random.Random(seed)

    def one(box):
        if hasattr(box, "choices"):
            return generator.choice(box.choices)
        at = generator.choice([0.0, 1.0, generator.random()])
        place = box.low * (box.high / box.low) ** at if box.log else box.low + at * (box.high - box.low)
        return round(place) if isinstance(box.low, int) else min(max(place, box.low), box.high)

    for _ in range(count):
        yield {name: one(box) for name, box in chosen.distributions().items()}


def test_the_boxes_are_the_same_for_every_trial_and_the_method_is_one_of_them():
    encoded = ANY.distributions()
    assert list(encoded)[:3] == ["method", "rho_or_zero", "beta1_switch"]
    assert encoded["method"].choices == tuple(OWN)
    for point in ANY.points:
        assert set(ANY.internal(point.values)) == set(encoded)


def test_every_place_is_a_setting_of_one_method_that_leads_back_to_itself():
    seen = set()
    for place in places(ANY, 1500):
        natural = ANY.natural(place)
        assert set(natural) == COMMON | OWN[natural["method"]]
        assert ANY.parse(natural) == natural
        assert ANY.natural(ANY.internal(natural)) == natural
        config = ANY.config(natural)
        assert config.method == natural["method"]
        assert set(config.hyperparameters) == set(natural) - {"method"}
        build(config)  # which refuses what the method lacks
        seen.add(config.method)
    assert seen == set(OWN)


def test_what_stands_in_the_boxes_of_a_parameter_that_is_not_there_changes_nothing():
    rest = {name: place for name, place in ANY.internal(ANY.points[1].values).items() if name != "rho_or_zero"}
    assert ANY.natural(rest | {"rho_or_zero": 2.0}) == ANY.natural(rest | {"rho_or_zero": 0.004})
    assert ANY.natural(rest | {"rho_or_zero": 2.0, "method": "sam"})["rho"] == 2.0


def test_conditions_may_be_chained_and_stand_before_what_they_name():
    met = [CHAIN.natural(place) for place in places(CHAIN, 600)]
    for natural in met:
        assert ("net" in natural) == (natural["kind"] in ("b", "c"))
        assert ("depth" in natural) == (natural["kind"] == "b" and natural["net"])  # kind a has no net
        assert ("power" in natural) == (natural["decay"] != "off") == ("seed" not in natural)
        assert CHAIN.natural(CHAIN.internal(natural)) == natural
        assert list(natural) == [name for name in CHAIN.parameters if name in natural]
    assert len({tuple(natural) for natural in met}) == 2 * 3
    assert SearchSpace.from_dict(CHAIN.to_dict()) == CHAIN
    assert SearchSpace.from_dict(ANY.to_dict()) == ANY


def test_methods_with_a_parameter_follow_the_chain():
    chosen = space(
        {
            "net": {"choices": [True, False], "when": {"method": ["sam", "coop"]}},
            "rho": {"low": 0.1, "high": 1.0, "when": {"net": True, "method": ["sam", "gnp"]}},
        },
        method=None,
        methods=["coop", "sam", "gnp"],
    )
    assert chosen.methods_with("net") == ("coop", "sam")
    assert chosen.methods_with("rho") == ("sam",)
    assert CHAIN.methods_with("depth") == ("m",)


A = {"low": 0.0, "high": 1.0}
TWO = {"method": None, "methods": ["coop", "sam"]}


@pytest.mark.parametrize(
    ("parameters", "others", "message"),
    [
        ({"a": A | {"when": {"b": 1}}}, {}, r"parameters\.a\.when\.b: the parameter must be one of the known"),
        ({"a": A | {"when": {"b": 1}}, "b": A}, {}, r"when\.b: a condition names a parameter with choices.*off = true"),
        (
            {"a": A | {"when": {"b": 3}}, "b": {"choices": [1, 2]}},
            {},
            r"when\.b: b must be able to have.*got 3\..*1, 2",
        ),
        ({"a": A | {"when": {"b": True}}, "b": {"choices": [1, 2]}}, {}, r"b must be able to have the value, got True"),
        ({"a": A | {"when": {"b": 0.5}}, "b": A | {"off": True}}, {}, r"got 0\.5\..*It can be: on, off"),
        (
            {"a": A | {"when": {"b": []}}, "b": {"choices": [1, 2]}},
            {},
            r"parameters\.a\.when: `when` must name a value",
        ),
        ({"a": A | {"when": "b"}}, {}, r"parameters\.a\.when: `when` must be a table"),
        ({"a": A | {"when": {"method": "sam"}}}, {}, r"when\.method: the space has one method only"),
        ({"a": A | {"when": {"method": "sma"}}}, TWO, r"method must be able to have the value, got sma"),
        (
            {"a": {"choices": [1, 2], "when": {"b": 1}}, "b": {"choices": [1, 2], "when": {"a": 1}}},
            {},
            r"`when` must not lead back to the same parameter, got [ab] -> [ab] -> [ab]",
        ),
        (
            {"a": A | {"at_most": "b"}, "b": A | {"when": {"method": "sam"}}},
            TWO,
            r"parameters\.a\.at_most: b must be there wherever a is.*when\.method = \['sam'\]",
        ),
        ({"method": {"choices": ["coop", "sam"]}}, {}, r"parameters\.method: `method` is the name of the choice"),
        ({"a": A}, {"method": None}, r"method: a space has either `method` or `methods`"),
        ({"a": A}, {"methods": ["coop", "sam"]}, r"method: a space has either `method` or `methods`, got m"),
        ({"a": A}, {"method": None, "methods": ["sam", "sam"]}, r"methods: methods must be distinct"),
        ({"a": A}, {"method": None, "methods": ["sam"]}, r"methods: list should have at least 2 items"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(parameters, others, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        space(parameters, **others)


@pytest.mark.parametrize(
    ("point", "message"),
    [
        ({"method": "coop", "lr": 0.5, "rho": 0.5}, r"points\.0\.rho: rho is there only where method is sam, got 0\.5"),
        ({"method": "sam", "lr": 0.5}, r"points\.0\.rho: every parameter of the space needs a value"),
        ({"lr": 0.5}, r"points\.0\.method: every parameter of the space needs a value"),
        ({"method": "gnp", "lr": 0.5}, r"points\.0\.method: the value must be one of \['coop', 'sam'\], got gnp"),
    ],
)
def test_a_point_carries_what_its_method_has_and_no_more(point, message):
    parameters = {"rho": A | {"when": {"method": "sam"}}, "lr": A}
    with pytest.raises(InputError, match=message):
        space(parameters, **TWO, points=[{"label": "p"} | point])


def file_of(folder, text):
    path = folder / "mine.toml"
    path.write_text(f'version = 1\nmethods = ["coop", "sam", "gnp"]\n{text}')
    return Pipeline.from_dict({"name": "one", "search": {"space": str(path)}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[parameters.rho]\nlow = 0\nhigh = 1",
            r"rho: coop has no such parameter.*when = \{ method = \[\"sam\", \"gnp\"\]",
        ),
        ("[parameters.rhoo]\nvalue = 1", r"parameters\.rhoo: the parameter of coop must be one of the known"),
        ("[parameters.alpha]\nlow = 0\nhigh = 2\nwhen = { method = 'gnp' }", r"parameters\.alpha: .*got 2"),
        (
            "[parameters.rho]\nlow = 0\nhigh = 1\nwhen = { method = 'sam', position = 'end' }\n"
            "[parameters.position]\nchoices = ['end', 'front']\nwhen = { method = 'gnp' }",
            r"parameters\.rho\.when: no method of the space fulfils its conditions",
        ),
    ],
)
def test_what_does_not_fit_a_method_is_refused_before_the_first_trial(tmp_path, text, message):
    with pytest.raises(InputError, match=f"(?s){message}"):
        checks.check(file_of(tmp_path, text))


def test_an_unknown_method_among_several_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('version = 1\nmethods = ["coop", "sma"]\n')
    with pytest.raises(InputError, match=r"(?s)mine\.toml, method: .*got 'sma'.*Did you mean 'sam'"):
        checks.check(Pipeline.from_dict({"name": "one", "search": {"space": str(path)}}))


# Who reads them


class Mixed(Bowl):
    """Another hill for every method."""

    def value(self, lr, epochs, **own):
        return 70 + 5 * len(own) + sum(0.01 * value for value in own.values() if isinstance(value, float)) - lr


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "grid"])
def test_a_search_among_methods_repeats_and_goes_on_from_any_record(sampler):
    grid = dict.fromkeys(ANY.parameters, 1) | {"lr": 3, "rho": 2} if sampler == "grid" else {}
    settings = SETTINGS.model_copy(update={"sampler": sampler, "trials": 26, "grid": grid})
    first = search(settings, ANY, Mixed())
    assert [record.label for record in first[:5]] == [point.label for point in ANY.points]
    for record in first:
        assert set(record.config.hyperparameters) == {"lr", "epochs"} | OWN[record.config.method]
    assert len({record.config.method for record in first[5:]}) > 1
    for cut in (3, 13):
        assert configs(search(settings, ANY, Mixed(), known=first[:cut])) == configs(first)


def test_the_joint_model_keeps_the_choice_among_methods():
    proposer = Proposer(ANY, SETTINGS)
    drive(proposer, Mixed())
    modelled = [set(json.loads(t.system_attrs["tpe:relative_params:0"])) for t in proposer.study.get_trials()[6:]]
    assert modelled == [set(ANY.distributions())] * 16


def test_a_grid_has_every_setting_of_every_method_once():
    steps = {
        "rho": 2,
        "beta1": 1,
        "beta2": 1,
        "kg_lambda": 2,
        "prograd_lambda": 1,
        "temperature": 2,
        "lr": 1,
        "epochs": 1,
    }
    found = [ANY.natural(place) for place in samplers.grid(SearchConfig(sampler="grid", grid=steps), ANY)]
    count = {name: sum(values["method"] == name for values in found) for name in OWN}
    assert count == {"coop": 1, "kgcoop": 2, "prograd": 2, "sam": 2, "gcscoop": 2 * 2}  # beta1 off, or in the middle
    with pytest.raises(InputError, match="got cmaes with method, beta1"):
        samplers.check(SearchConfig(sampler="cmaes"), ANY)


@pytest.mark.parametrize("name", list(OWN))
def test_sweeps_of_one_method_teach_a_search_among_several(name):
    """Each with its defaults filled in, also those that other methods of the space have as parameters."""
    alone = load(name)
    for values in alone.sample(20, seed=3):
        record = Mixed().record(Proposal(number=0, config=complete(alone.config(values))))
        place = warm_start.encode(ANY, record)
        assert ANY.config(ANY.natural(place)).hyperparameters == {n: values[n] for n in values}
        assert ANY.config(ANY.natural(place)).method == name
        assert warm_start.encode(ANY, record.model_copy(update={"config": complete(TrialConfig(method="gnp"))})) is None


def test_the_references_of_a_space_with_several_methods_have_their_own_titles():
    pipeline = Pipeline.from_dict({"name": "one", "search": {"space": "any-method"}, "confirm": {"references": [
        "literature", "literature-sam", "coop",
    ]}})  # fmt: skip
    found = checks.references(pipeline, ANY)
    assert [title for _, title in found] == ["GCSCoOp, literature", "SAM, literature-sam", "CoOp"]
    assert found[1][0].method == "sam"
    assert found[1][0].hyperparameters["rho"] == 0.05


def test_pictures_and_tables_bear_what_only_some_methods_have():
    records = []
    for number, values in enumerate(ANY.sample(150, seed=5)):
        records.append(Mixed().record(Proposal(number=number, config=ANY.config(values))))
    assert searched(records) == [
        "method", "rho", "beta1", "beta2", "kg_lambda", "prograd_lambda", "temperature", "lr", "epochs",
    ]  # fmt: skip
    tried = responses(records, "val_h")
    assert tried.axes["method"].words == tuple(sorted(OWN))
    shares = importances(tried)
    assert set(shares) == COMMON  # what few have alone is compared as the method
    assert max(shares, key=shares.get) == "method"


def test_a_search_among_methods_by_two_objectives_really_trains(laboratory):
    short = {"epochs": {"low": 1, "high": 3, "integer": True}, "lr": {"low": 0.001, "high": 0.1, "log": True}}
    own = {name: parameter.to_dict() for name, parameter in ANY.parameters.items()}
    chosen = space(own | short, method=None, methods=list(OWN))
    objectives = ("val_base_acc", "val_new_acc")
    settings = SETTINGS.model_copy(update={"trials": 12, "pack": 6, "generation": 1, "objective": objectives})
    episodes = laboratory.episodes("search", (1, 2))

    def train(proposals, report):
        return [trial.record for trial in run_pack(laboratory, episodes, proposals)]

    records = search(settings, chosen, train)
    assert {record.outcome for record in records} == {Outcome.COMPLETE}
    assert len({record.config.method for record in records[:6]}) > 1  # in one pack
    ranking = rank(records, "val_h", objectives)
    assert {row.record.number for row in ranking if row.front} == front(records, objectives)
    assert ranking[0].front


def test_both_ends_of_every_range_are_kept_by_whoever_has_it():
    for name, parameter in ANY.parameters.items():
        for method in ANY.methods_with(name):
            upper = getattr(parameter, "at_most", None)
            for value in extremes(parameter):
                beside = {upper: value} if upper and value != "off" else {"beta1": "off"} if name == "beta2" else {}
                build(TrialConfig(method=method, hyperparameters={name: value, **beside}))
