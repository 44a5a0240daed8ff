"""Makes former-store.tar.xz with the version of gcsearch that runs it: what later versions must be able to read.

    git worktree add ../former b7824e3      # the version whose files are wanted
    cd ../former && PYTHONPATH=. python /path/to/make_former_store.py /path/to/former-store.tar.xz

The archive holds `store` (two sweeps and MLflow's store), `best` (an export), `features` (an entry of the feature
cache) and `shown.json`: what that version's commands said of all this.
"""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PIPELINE = """
name = "{name}"

[task]
dataset = "shapes-sketch"
shots = 2
views = 1
folds = 2
seeds = [1]

[search]
space = "gcscoop-smoke"
trials = 3
pack = 2
generation = 2
startup = 2
seed = 1

[confirm]
top = 2
seeds = [4]
references = ["zeroshot", "coop"]
"""


def gcsearch(*words: object, store: Path | None = None) -> str:
    command = [sys.executable, "-m", "gcsearch", *map(str, words), *(["--store", str(store)] if store else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def make(work: Path, archive: Path) -> None:
    store, best, cache = work / "store", work / "best", work / "cache"
    os.environ["GCSEARCH_CACHE"] = str(cache)
    for name in ("finished", "killed"):
        (work / f"{name}.toml").write_text(PIPELINE.format(name=name))
        gcsearch("run", work / f"{name}.toml", store=store)
    gcsearch("extend", "finished", "--trials", 1, store=store)
    gcsearch("confirm", "finished", "--seeds", 5, store=store)
    gcsearch("export", "finished", "--out", best, "--register", store=store)
    kill(store / "sweeps" / "killed")
    image = min((cache / "data").rglob("*.png"))
    shown = {
        "status": json.loads(gcsearch("status", "finished", "--json", store=store)),
        "best": json.loads(gcsearch("best", "finished", "--json", store=store)),
        "compare": json.loads(gcsearch("compare", "finished", "--json", store=store)),
        "predict": json.loads(gcsearch("predict", best, image, "--json")),
    }
    shown["predict"]["images"][0]["file"] = str(image.relative_to(cache))
    (work / "shown.json").write_text(json.dumps(shown, indent=1, sort_keys=True))
    keep_one_entry(cache / "features", work / "features")
    strip(store)
    with tarfile.open(archive, "w:xz", preset=9) as pack:
        for name in ("store", "best", "features", "shown.json"):
            pack.add(work / name, name, filter=nobodys)


def kill(sweep: Path) -> None:
    """Leave the folder as a loss of power would: with one record, and half of the second one's line."""
    journal = sweep / "journal.jsonl"
    text = journal.read_text()
    first = text.index('"kind":"record"')
    journal.write_text(text[: text.index('"kind":"record"', first + 1) + 80])
    (sweep / "synced.json").unlink()
    shutil.rmtree(sweep / "final")


def keep_one_entry(features: Path, kept: Path) -> None:
    """The smallest entry: a few validation images."""
    kept.mkdir()
    shutil.copy2(min(features.glob("*.arrow"), key=lambda path: path.stat().st_size), kept)


def strip(store: Path) -> None:
    """Leave out what is large and never read: reports, Ray's own files, the empty pages of the database."""
    for path in store.rglob("report.html"):
        path.unlink()
    shutil.rmtree(store / "sweeps" / "finished" / "ray")
    with sqlite3.connect(store / "mlflow.db") as database:
        database.execute("VACUUM")
    database.close()


def nobodys(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = entry.mtime = 0
    entry.uname = entry.gname = ""
    return entry


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="former-") as folder:
        make(Path(folder), Path(sys.argv[1]).absolute())
