"""The README and the docs cannot drift from the code."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gcsearch.cli.app import app
from gcsearch.methods.registry import METHODS

ROOT = Path(__file__).parents[2]
DEPLOYED = ("deploy/Dockerfile", "deploy/rayjob.yaml", "docs/cluster.md")
"""Where the version is the tag of an image."""
README = (ROOT / "README.md").read_text(encoding="utf-8")


def tree():
    """Paths of the file tree in the README."""
    block = README[README.index("## The house") :].split("```")[1]
    folder = ""
    for line in block.strip().splitlines():
        name = line.split()[0]
        if line.startswith("  "):
            yield folder + name
        else:
            folder = name
            yield name


def test_the_readmes_tree_is_the_one_on_disk():
    listed = set(tree())
    assert all((ROOT / path).exists() for path in listed), [p for p in listed if not (ROOT / p).exists()]
    modules = {
        f"gcsearch/{path.name}" + ("/" if path.is_dir() else "")
        for path in (ROOT / "gcsearch").iterdir()
        if path.name not in {"__init__.py", "__pycache__"}
    }
    assert modules <= listed, modules - listed
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    folders = {line.split("/")[0] + "/" for line in tracked.splitlines() if "/" in line and line[0] != "."}
    folders |= set(re.findall(r"^tests/\w+/", tracked, re.MULTILINE))
    assert folders <= listed, folders - listed


def documented_commands():
    commands = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for block in re.findall(r"```\n(.*?)```", README + commands, re.DOTALL):
        for line in block.splitlines():
            if line.startswith("gcsearch ") and "." not in line.split()[0]:
                yield line.split("#")[0].strip()


@pytest.mark.parametrize("line", [*dict.fromkeys(documented_commands())])
def test_every_documented_command_exists_with_its_flags(line):
    words = line.split()[1:]
    grouped = words[0] == "data" or words[:2] in (["cache", "ls"], ["cache", "verify"], ["cache", "prune"])
    command = words[:2] if grouped else words[:1]
    done = CliRunner().invoke(app, [*command, "--help"])
    assert done.exit_code == 0
    assert all(word in done.stdout for word in words if word.startswith("--"))


def test_the_readmes_python_is_what_a_test_runs():
    (lines,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert lines.startswith('import gcsearch\n\nsweep = gcsearch.run("demo")\nsweep.export("best")\n')
    import gcsearch

    for name in gcsearch.__all__:
        assert getattr(gcsearch, name)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_section_and_its_space(method):
    assert f"(`{method}`)" in (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    assert (ROOT / "search_spaces" / f"{method}.toml").exists()


def test_links_of_the_docs_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "tests" / "assets" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), (page.name, target)


def test_every_file_that_names_the_version_names_this_one():
    from gcsearch import __version__

    text = {name: (ROOT / name).read_text(encoding="utf-8") for name in ("CHANGELOG.md", "CITATION.cff", *DEPLOYED)}
    assert f"\n## {__version__}" in text["CHANGELOG.md"]
    assert f"\nversion: {__version__}\n" in text["CITATION.cff"]
    for name in DEPLOYED:
        assert set(re.findall(r"gcsearch:(\d+\.\d+\.\d+)", text[name])) == {__version__}, name


def test_no_test_imports_another_test():
    """What several tests need is in tests/support, or a fixture of a conftest.py."""
    folders = "|".join(path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name != "support")
    importing = re.compile(rf"^\s*(from tests\.({folders}|conftest)\b|from tests import|import test_)", re.MULTILINE)
    for path in (ROOT / "tests").rglob("*.py"):
        assert not (found := importing.findall(path.read_text(encoding="utf-8"))), (path, found)


def test_one_builder_makes_the_records_of_trials():
    making = [path.name for path in (ROOT / "tests").rglob("test_*.py") if "TrialRecord(" in path.read_text("utf-8")]
    assert sorted(making) == ["test_docs.py", "test_nouns.py"], "tests.support.records.trial_record makes them"
