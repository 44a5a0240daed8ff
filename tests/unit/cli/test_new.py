"""`gcsearch new`: what it finds in a folder, what it proposes, asks and refuses, and the file that it writes."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

import gcsearch
from gcsearch import files
from gcsearch.cli.app import app
from gcsearch.cli.commands import new
from gcsearch.config.task import Task
from gcsearch.data.datasets import DATASETS, template_of
from gcsearch.data.survey import survey
from gcsearch.driver.load import load
from gcsearch.errors import InputError
from tests.support.images import drawn_folders
from tests.support.trees import TREES, write

pytestmark = [
    pytest.mark.filterwarnings("ignore::gcsearch.data.lists.splits.FreshSplitWarning"),
    pytest.mark.filterwarnings("ignore::gcsearch.data.lists.folders.SkippedFilesWarning"),
]


def run(*words, answers=""):
    done = CliRunner().invoke(app, ["new", *map(str, words)], input=answers)
    if isinstance(done.exception, Exception):  # the entry of the command line makes words of it
        raise done.exception
    return done


def asked(monkeypatch, *words, answers):
    monkeypatch.setattr(new, "_on_a_terminal", lambda: True)
    return run(*words, answers="\n".join(answers) + "\n")


@pytest.fixture
def fruit(tmp_path, monkeypatch):
    """Six class folders of 12 images, of which 6 are trained on; the working folder is beside them."""
    monkeypatch.chdir(tmp_path)
    drawn_folders(tmp_path / "fruit", dict.fromkeys(("apple", "fig", "grape", "kiwi", "lime", "pear"), 12))
    return tmp_path


def test_a_folder_of_class_folders_becomes_a_pipeline(fruit):
    done = run("my.toml", "--data", "fruit", "--model", "mini", "--trials", 4)
    assert "6: apple, fig, grape, kiwi, lime, pear" in done.output
    assert "train 36, val 12, test 24" in done.output
    assert "`mini` is a test bed that knows the embedded drawings alone" in done.output
    assert "next     gcsearch plan my.toml" in done.output and "gcsearch run my.toml" in done.output
    written = load(fruit / "my.toml")
    task = written.task
    assert (written.name, written.search.trials, written.confirm.top) == ("my", 4, 4)
    assert (task.dataset, task.root, task.shots, task.folds) == ("folder:fruit", str(fruit), 4, 1)


LAYOUTS = {
    "folder": ("my things/vögel", "folder:vögel"),
    "csv": ("birds and more/list.csv", "table:list.csv"),
    "parquet": ("birds and more/list.parquet", "table:list.parquet"),
    "OxfordPets": ("oxford_pets", "OxfordPets"),
    "OxfordPets of torchvision": ("oxford-iiit-pet", "OxfordPets"),
    "DescribableTextures of torchvision": ("dtd/dtd", "DescribableTextures"),
    "EuroSAT by its split": ("eurosat", "EuroSAT"),
    "Food101": (".", "Food101"),  # the root of one data set
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_known_by_its_folder(tmp_path, layout):
    tree = TREES[layout](tmp_path)
    where, name = LAYOUTS[layout]
    run(tmp_path / "my.toml", "--data", tmp_path / where, "--model", "mini")
    written = load(tmp_path / "my.toml")
    found = survey(str(tmp_path / where))
    assert (written.task.dataset, found.classes) == (name, tree.classes)
    assert {key: sum(counts) for key, counts in found.counts.items()} == tree.counts
    found.check(written.task.classes, written.task.shots, written.task.folds)
    assert written.task.template == (template_of(name) if name in DATASETS else Task().template)


@pytest.mark.parametrize("name", ["shapes-night", "world:4"])
def test_an_embedded_data_set_needs_neither_folder_nor_model(tmp_path, name):
    run(tmp_path / "my.toml", "--data", name, "--minutes", 1.5)
    written = load(tmp_path / "my.toml")
    assert written.task.dataset == name
    assert (written.task.root, written.task.backbone, written.task.shots, written.task.folds) == (None, "mini", 16, 3)
    assert written.search.budget.minutes == 1.5


def test_few_classes_are_all_trained(fruit):
    drawn_folders(fruit / "two", {"cat": 9, "dog": 30})
    run("my.toml", "--data", "two", "--model", "mini")
    written = load("./my.toml")
    assert (written.task.classes, written.task.folds, written.search.objective) == ("all", 1, "val_acc")
    assert written.task.shots == 4  # a cat is trained on less often than a dog


def test_each_key_is_explained_by_its_model(fruit):
    run("my.toml", "--data", "fruit", "--model", "mini")
    text = (fruit / "my.toml").read_text()
    said = " ".join(line.removeprefix("# ") for line in text.splitlines() if line.startswith("#"))
    for key in files.parse_toml(text)["task"]:
        assert " ".join((Task.model_fields[key].description or "?").split()) in said
    assert max(map(len, text.splitlines())) <= 110


def test_a_name_that_steers_a_terminal_is_written_harmlessly(fruit):
    drawn_folders(fruit / "odd", dict.fromkeys(("a\nb", "bell\a", "plain", "other"), 8))
    run("my.toml", "--data", "odd", "--model", "mini")
    assert load("./my.toml").task.dataset == "folder:odd"
    assert r"# classes   4: a b, bell\x07, other, plain" in (fruit / "my.toml").read_text()


def test_on_a_terminal_it_asks_and_asks_again(fruit, monkeypatch):
    answers = ["nothing", "fruit", "mini", "gcsearch", "kgcoop", "half", "base", "70", "2", "1", "20 min"]
    done = asked(monkeypatch, "my.toml", answers=answers)
    assert "data is a folder of images, a table, or the name of an embedded data set, got nothing" in done.output
    assert "--method: the search space must be one of the known names, got 'gcsearch'" in done.output
    assert "classes are base or all, got half" in done.output
    assert "no class has so many training images, got 70" in done.output
    assert "Training images per class [4]" in done.output
    written = load("./my.toml")
    assert (written.search.space, written.task.shots, written.search.budget.minutes) == ("kgcoop", 2, 20.0)


def test_of_several_data_sets_one_is_named(fruit, monkeypatch):
    drawn_folders(fruit / "leaves", dict.fromkeys("abcd", 8))
    with pytest.raises(InputError, match=r"--dataset: .* several .*\nName one: folder:fruit, folder:leaves"):
        run("my.toml", "--data", ".", "--model", "mini")
    asked(monkeypatch, "my.toml", "--data", ".", "--model", "mini", answers=["folder:leaves", *[""] * 5])
    assert load("./my.toml").task.dataset == "folder:leaves"
    run("other.toml", "--data", ".", "--dataset", "folder:fruit", "--model", "mini", "--yes")
    assert load("./other.toml").task.dataset == "folder:fruit"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["my.toml"], r"^--data: a value is needed.*\nAdd --data"),
        (["my.toml", "--data", "fruit"], r"^--model: a value is needed"),
        (["my.txt", "--data", "fruit"], r"^FILE: a pipeline is a TOML file, got my.txt"),
        (["there.toml", "--data", "fruit"], r"there.toml, FILE: the file is there already.\n.*--force"),
        (["my.toml", "--data", "EuroSAT"], r"^--data: .*\nGet it with `gcsearch data get EuroSAT --root DIR`"),
        (["my.toml", "--data", "notes.csv"], r"notes.csv, --data: a file is a CSV or Parquet table"),
        (["my.toml", "--data", "empty"], r"empty, --data: a folder with a folder of images for each class"),
        (["my.toml", "--data", "fruit", "--model", "ViT-B-61"], r"^--model: .*\nDid you mean 'ViT-B-16'"),
        (["my.toml", "--data", "fruit", "--model", "w.pt"], r"--model ViT-B-16 --pretrained w.pt"),
        (["my.toml", "--data", "fruit", "--model", "ViT-B-16"], r"^--pretrained: a value is needed"),
        (["my.toml", "--data", "fruit", "--model", "mini", "--pretrained", "openai"], r"^--pretrained: the bundled"),
        (
            ["my.toml", "--data", "fruit", "--model", "mini", "--shots", "7"],
            r"^--shots: no class .*, got 7.\nAt most 6",
        ),
        (["my.toml", "--data", "fruit", "--model", "mini", "--folds", "2"], r"^--folds: every fold needs two"),
        (["my.toml", "--data", "fruit", "--model", "mini", "--trials", "0"], r"^--trials: this is a whole number"),
        (["my.toml", "--data", "fruit", "--model", "mini", "--minutes", "-1"], r"^--minutes: .* got -1.0"),
        (["my.toml", "--data", "fruit", "--model", "mini", "--method", "spacy"], r"^--method: the search space must"),
        (["my.toml", "--data", "fruit", "--model", "mini", "--classes", "new"], r"^--classes: classes are base or all"),
        (["...toml", "--data", "fruit", "--model", "mini"], r"FILE: a name is made of letters"),
    ],
)
def test_what_is_wrong_is_said_by_its_flag_and_nothing_is_written(fruit, words, message):
    write(fruit / "there.toml", ["# mine"])
    write(fruit / "notes.csv", ["date,text", "today,nothing"])
    (fruit / "empty").mkdir()
    with pytest.raises(InputError, match=f"(?s){message}"):
        run(*words)
    assert sorted(path.name for path in fruit.glob("*.toml")) == ["there.toml"]
    assert (fruit / "there.toml").read_text() == "# mine\n"


def test_weights_that_are_not_here_are_named_and_the_file_is_written(fruit, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(fruit))
    done = run("there.toml", "--data", "fruit", "--model", "ViT-B-16", "--pretrained", "openai")
    assert "the weights openai are not on this machine: the first plan or run fetches them" in done.output
    assert load("./there.toml").task.pretrained == "openai"
    run("there.toml", "--data", "fruit", "--model", "mini", "--force")
    assert load("./there.toml").task.pretrained is None


def test_paths_outside_the_files_folder_are_absolute(fruit):
    (fruit / "deep").mkdir()
    write(fruit / "mine.toml", ["version = 1", 'method = "coop"', "[parameters.lr]", "low = 0.001", "high = 0.01"])
    run("deep/my.toml", "--data", "fruit", "--model", "mini", "--method", "./mine.toml")
    content = files.read_toml(fruit / "deep" / "my.toml")
    assert content["task"]["root"] == str(fruit)
    assert content["search"]["space"] == str(fruit / "mine.toml")


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["folder", "csv", "OxfordPets of torchvision", "Food101"])
def test_plan_accepts_what_was_written(tmp_path, layout):
    TREES[layout](tmp_path)
    run(tmp_path / "my.toml", "--data", tmp_path / LAYOUTS[layout][0], "--model", "mini", "--minutes", 0.5)
    planned = gcsearch.plan(tmp_path / "my.toml")
    assert planned.trained_classes == 3 and planned.search_seconds <= 30
    assert "the search ends after 0.5 minutes, however many configurations it has tried" in planned.notes


@pytest.mark.slow
def test_what_was_written_runs(fruit):
    run("my.toml", "--data", "fruit", "--model", "mini", "--trials", 4)
    overrides = {"search.cap": "{ epochs = 12 }", "task.views": "1", "confirm.references": '["zeroshot"]'}
    sweep = gcsearch.run("./my.toml", overrides=overrides, store=fruit / "store", executor="local")
    assert (sweep.name, len(sweep.searched), sweep.state.finished) == ("my", 4, True)
