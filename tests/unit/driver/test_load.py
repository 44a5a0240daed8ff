"""A pipeline's file: where its paths start, and what is checked of a backbone before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcsearch import files
from gcsearch.config.pipeline import Pipeline
from gcsearch.driver import checks, load, matrix, run
from gcsearch.errors import InputError
from gcsearch.export import bundle
from gcsearch.sweep.store import Store


def write(folder: Path, pretrained: str | None, backbone: str = "ViT-B-32") -> Path:
    line = "" if pretrained is None else f'pretrained = "{pretrained}"\n'
    path = folder / "mine.toml"
    path.write_text(f'[task]\nbackbone = "{backbone}"\n{line}\n[search]\nspace = "gcscoop"\ntrials = 1\n')
    return path


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A folder with weights and a pipeline; the working directory is another one."""
    place = tmp_path / "pipelines"
    (place / "hub").mkdir(parents=True)
    (place / "openai").mkdir()
    (place / "weights.pt").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return place


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("weights.pt", "{}/weights.pt"),
        ("./hub", "{}/hub"),
        ("jit:weights.pt", "jit:{}/weights.pt"),
        ("{}/weights.pt", "{}/weights.pt"),
        ("openai", "openai"),  # a tag, although a folder of that name lies there
    ],
)
def test_relative_weights_start_at_the_pipelines_folder_and_tags_stay(folder, written, read):
    pipeline = load.load(write(folder, written.format(folder)))
    assert pipeline.task.pretrained == read.format(folder)


@pytest.mark.parametrize("written", ["absent.pt", "./absent", "jit:absent.pt"])
def test_weights_that_are_not_there_are_refused_before_anything_is_loaded(folder, written):
    with pytest.raises(InputError, match=r"mine\.toml, task\.pretrained: the checkpoint must exist, got .*absent"):
        load.load(write(folder, written))


def test_a_backbone_without_weights_is_refused_and_mini_needs_none(folder):
    with pytest.raises(InputError, match=r"task\.pretrained: a backbone that is not bundled needs its weights"):
        load.load(write(folder, None))
    assert load.load(write(folder, None, backbone="mini")).task.pretrained is None


def test_weights_that_a_backbone_would_not_read_are_refused(folder):
    own = r"mine\.toml, task\.pretrained: the bundled `mini` has weights of its own and reads no others, got openai"
    with pytest.raises(InputError, match=own):
        load.load(write(folder, "openai", backbone="mini"))
    # The override is of the model, and the file's weights are another model's.
    assert load.load(write(folder, "openai"), {"task.backbone": "mini"}).task.pretrained is None
    with pytest.raises(InputError, match="reads no others"):
        load.load(write(folder, None), {"task.backbone": "mini", "task.pretrained": "openai"})


def test_a_reference_that_is_named_twice_is_one(folder):
    pipeline = load.load("demo", {"confirm.references": '["coop", "zeroshot", "coop"]'})
    assert [title for _, title in checks.references(pipeline, checks.check(pipeline))] == ["CoOp", "zero-shot CLIP"]


@pytest.fixture
def places(tmp_path, monkeypatch) -> Path:
    """Data beside a pipeline in `home`, and other data below the folder of the command, `here`."""
    for root in ("home/data", "home/mine dir", "here/data"):
        (tmp_path / root).mkdir(parents=True)
    (tmp_path / "home" / "space.toml").write_text(files.shipped("search_spaces")["sam"].read_text())
    (tmp_path / "home" / "names.txt").write_text("tree\n")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path


FILE = """
[task]
root = "data"
other_names = "names.txt"
[search]
space = "./space.toml"
[tracking]
uri = "sqlite:///runs.db?timeout=5"
[quick]
task.root = "mine dir"
"""


def test_every_path_of_a_file_starts_at_its_folder_and_those_of_flags_at_that_of_the_command(places):
    home, here = places / "home", places / "here"
    (home / "mine.toml").write_text(FILE)
    plain = load.load("../home/mine.toml")
    assert plain.task.root == f"{here}/../home/data"
    assert plain.task.other_names == f"{here}/../home/names.txt"
    assert plain.search.space == f"{here}/../home/space.toml"
    assert plain.tracking.uri == f"sqlite:///{here}/../home/runs.db?timeout=5"
    assert load.load(home / "mine.toml", quick=True).task.root == f"{home}/mine dir"
    for written, read in {"data": f"{here}/data", "./data": f"{here}/data", "~/data": f"{home}/data"}.items():
        assert load.load(home / "mine.toml", {"task.root": written}).task.root == read
        assert load.load(home / "mine.toml", {"task": f'{{root = "{written}"}}'}).task.root == read
    flags = {"tracking.uri": "sqlite:///runs.db", "search.space": "gcscoop"}
    flagged = load.load(home / "mine.toml", flags)
    assert (flagged.tracking.uri, flagged.search.space) == (f"sqlite:///{here}/runs.db", "gcscoop")


def test_a_path_that_is_not_there_is_absolute_all_the_same(places):
    (places / "home" / "mine.toml").write_text('[task]\nroot = "absent"\n')
    assert load.load(places / "home" / "mine.toml").task.root == str(places / "home" / "absent")


def test_paths_in_a_matrix_start_at_its_file_and_those_in_an_override_of_it_at_the_folder_of_the_command(places):
    file = places / "home" / "many.toml"
    file.write_text('[matrix]\n"task.root" = ["data", "mine dir"]\n')
    roots = [one.task.root for one in matrix.load(file).pipelines]
    assert roots == [f"{places}/home/data", f"{places}/home/mine dir"]
    roots = [one.task.root for one in matrix.load(file, {"matrix.task.root": '["data"]'}).pipelines]
    assert roots == [f"{places}/here/data"]


def test_a_pipeline_that_a_program_makes_has_the_paths_of_the_command(places):
    made = Pipeline.from_dict({"name": "made", "task": {"root": "data"}, "search": {"space": "gcscoop"}})
    assert load.with_command_paths(made).task.root == f"{places}/here/data"


@pytest.mark.parametrize(
    "name", ["a b", "a%20b", "a#b", "a?b", "a&b;c", "a'b", 'a"b', "a[b]*", "a{}{0}", "~a", "$HOME", "ü+é"]
)
def test_a_folder_may_have_any_name(places, name):
    (places / "here" / name).mkdir()
    found = load.load("demo", {"task.root": f"./{name}"})
    assert Path(found.task.root).is_dir() and found.task.root == f"{places}/here/{name}"


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ('"a\\nb"', "task.root: a path has no line break"),
        ('""', "task.root: a path is not empty"),
        ("~nobody-of-this-name/data", "there is no home folder of ~nobody-of-this-name"),
        ("file/data", r"file is a file and no folder, got .*here/file/data"),
        ("x" * 300, "the path cannot be used: File name too long"),
        ("loop", "the path cannot be used: Too many levels of symbolic links"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_path_is_refused_in_words(places, monkeypatch, written, message):
    (places / "here" / "file").touch()
    (places / "here" / "loop").symlink_to("loop")
    with pytest.raises(InputError, match=message):
        load.load("demo", {"task.root": written})
    with pytest.raises(InputError, match=message.removeprefix("task.root: ")):
        Store.locate(load.parse_value(written) or "\n")


def test_a_kept_pipeline_runs_on_the_space_that_was_kept_beside_it(places):
    """Former versions kept the path of the space, which may be gone."""
    kept = places / "kept"
    kept.mkdir()
    (kept / "space.toml").write_text((places / "home" / "space.toml").read_text())
    for space in ("/gone/mine.toml", "space.toml"):
        (kept / "pipeline.toml").write_text(f'name = "mine"\n[search]\nspace = "{space}"\n')
        assert load.load(kept / "pipeline.toml").search.space == str(kept / "space.toml")
    (kept / "space.toml").unlink()
    with pytest.raises(InputError, match=r"space\.toml.*the search space file must exist"):
        load.load(kept / "pipeline.toml")


def test_a_name_fits_into_a_files_name():
    assert Pipeline(name="n" * 200).name
    with pytest.raises(InputError, match="a name has at most 200 characters"):
        Pipeline.from_dict({"name": "n" * 201})


OWN_IMAGES = [
    {"dataset": "folder:pics"},
    {"dataset": "OxfordPets"},
    {"also": ["folder:pics"]},
    {"targets": ["EuroSAT"]},
]


def of_task(**task):
    return {
        "name": "own",
        "task": {"root": "/data", **task},
        "search": {"space": "coop"},
        "confirm": {"references": []},
    }


@pytest.mark.parametrize("task", OWN_IMAGES)
def test_images_of_ones_own_need_a_model_that_somebody_named(task):
    for made in (Pipeline.from_dict, lambda content: load.with_command_paths(Pipeline(**content))):
        with pytest.raises(
            InputError, match=r'task\.backbone: .*test bed.*\n.*"ViT-B-16"` and `pretrained = "openai"`'
        ):
            checks.check(made(of_task(**task)))


@pytest.mark.parametrize("task", OWN_IMAGES)
def test_the_test_bed_is_remarked_upon_where_it_was_named_for_images_of_ones_own(task):
    pipeline = Pipeline.from_dict(of_task(backbone="mini", **task))
    checks.check(pipeline)
    (remark,) = checks.test_bed_remarks(pipeline.task)
    assert 'near chance. For OpenAI\'s ViT-B/16 write `backbone = "ViT-B-16"` and `pretrained = "openai"`' in remark
    assert "\n" not in remark


@pytest.mark.parametrize("task", [{}, {"also": ["shapes-neon"]}, {"targets": ["shapes-neon"], "folds": 1}])
def test_the_embedded_data_sets_have_the_test_bed_without_a_word(task):
    pipeline = Pipeline.from_dict(of_task(**task))
    checks.check(pipeline)
    assert not checks.test_bed_remarks(pipeline.task)


def test_a_single_configuration_has_no_silent_test_bed_either(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text('[task]\ndataset = "folder:pics"\nroot = "/data"\n[trial]\nmethod = "coop"\n')
    with pytest.raises(InputError, match=r"config\.toml, task\.backbone: "):
        load.load_trial(file)


def test_a_sweep_of_a_former_version_with_a_relative_path_says_what_to_do(tmp_path):
    folder = tmp_path / "sweeps" / "old"
    folder.mkdir(parents=True)
    (folder / "pipeline.toml").write_text('name = "old"\n[task]\nroot = "data"\ndataset = "folder:pics"\n')
    (folder / "space.toml").write_text(files.shipped("search_spaces")["sam"].read_text())
    (folder / "journal.jsonl").write_text('{"kind": "open", "time": "2026-01-01T00:00:00+00:00", "id": "old-1"}\n')
    message = (
        r"(?s)pipeline\.toml, task\.root: a former version kept this path relative .* got data.*Write the whole path"
    )
    with pytest.raises(InputError, match=message):
        run.resume("old", store=tmp_path)


@pytest.mark.parametrize("path", ["~nobody-of-this-name/best", "x" * 300, "file/best"])
def test_exports_are_written_to_and_read_from_paths_alone(places, path):
    (places / "here" / "file").touch()
    for use in (
        lambda: load.load_trial(path),
        lambda: files.check_export(Path(path), "metrics.json"),
        lambda: bundle.check_free(Path(path), force=True),
    ):
        with pytest.raises(InputError, match=r"no home folder of ~nobody|the path cannot be used"):
            use()
