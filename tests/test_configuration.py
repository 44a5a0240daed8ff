"""A pipeline's file: where its paths start, and what is checked of a backbone before anything is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest

from gcsearch import configuration
from gcsearch.errors import InputError


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
    pipeline = configuration.load(write(folder, written.format(folder)))
    assert pipeline.task.pretrained == read.format(folder)


@pytest.mark.parametrize("written", ["absent.pt", "./absent", "jit:absent.pt"])
def test_weights_that_are_not_there_are_refused_before_anything_is_loaded(folder, written):
    with pytest.raises(InputError, match=r"mine\.toml, task\.pretrained: the checkpoint must exist, got .*absent"):
        configuration.load(write(folder, written))


def test_a_backbone_without_weights_is_refused_and_mini_needs_none(folder):
    with pytest.raises(InputError, match=r"task\.pretrained: a backbone that is not bundled needs its weights"):
        configuration.load(write(folder, None))
    assert configuration.load(write(folder, None, backbone="mini")).task.pretrained is None
