"""What a sweep has measured: digests of its lists of images, of what they contain, of class names, weights and words.

The journal's lines `data` hold the digests, and `images.json.gz` in the sweep's folder the files behind them, so that a
difference can be named.  Paths are relative to the data set's own folder: data may move, and times count for nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gcsearch import files
from gcsearch.config.metrics import Stage
from gcsearch.data.datasets import Dataset, Progress
from gcsearch.errors import InputError
from gcsearch.results.documents import Exported
from gcsearch.sweep.journal import DataMeasured, DataSetDigests, Journal
from gcsearch.training.task_data import Laboratory, Read, digest_of

DETAILS = "images.json.gz"
_MOST = 200_000  # images of a list whose names are kept; of more only the digest is
_NAMED = 3


@dataclass
class Images:
    """One data set. `contents`: by `train/SEED`, `val/SEED` and `test` what was read, as (path, label, digest)."""

    classes: tuple[str, ...] = ()
    lists: dict[str, list[Read]] = field(default_factory=dict)
    contents: dict[str, list[Read]] = field(default_factory=dict)

    def digests(self) -> dict[str, Any]:
        """What the journal keeps."""
        return {
            "classes": digest_of(self.classes),
            "lists": {name: {"images": len(one), "digest": digest_of(one)} for name, one in self.lists.items()},
            "contents": {role: digest_of(one) for role, one in self.contents.items()},
        }

    def details(self) -> dict[str, Any]:
        """What the file beside the journal keeps."""
        lists = {name: one for name, one in self.lists.items() if len(one) <= _MOST}
        return {"classes": self.classes, "lists": lists, "contents": self.contents}


@dataclass
class Snapshot:
    """All data of a sweep as they lie there now."""

    weights: str
    other_names: str
    sets: dict[str, Images]

    def digests(self) -> dict[str, Any]:
        """The fields of the journal's line."""
        sets = {name: images.digests() for name, images in self.sets.items()}
        return {"weights": self.weights, "other_names": self.other_names, "sets": sets}


def look(
    labs: Sequence[Laboratory],
    measured: Sequence[tuple[Stage, tuple[int, ...]]],
    progress: Progress | None = None,
) -> Snapshot:
    """Digest what stages with their seeds read. Files whose content is remembered are not read again."""
    sets: dict[str, Images] = {}
    for lab in labs:
        for dataset in (lab.dataset, *lab.targets):
            lists = {name: [(i.path, i.label, "") for i in items] for name, items in dataset.lists.items()}
            sets.setdefault(dataset.name, Images(tuple(dataset.classes), lists))
        for stage, seeds in measured:
            for name, role, read in lab.read(stage, seeds, progress):
                sets[name].contents[role] = read
    others = digest_of(labs[0].others) if labs[0].task.other_names else ""
    return Snapshot(labs[0].backbone.fingerprint, others, sets)


def of_stage(labs: Sequence[Laboratory], stage: Stage, seeds: Sequence[int]) -> str:
    """What a stage with these seeds reads, in one digest."""
    read = [(name, role, digest_of(one)) for lab in labs for name, role, one in lab.read(stage, seeds)]
    return digest_of([labs[0].backbone.fingerprint, *sorted(set(read))])


def expected(now: Snapshot, stage: Stage, seeds: Sequence[int]) -> str:
    """As `of_stage`, of what the driver has looked at."""
    scored = {"test"} if stage == "test" else {f"val/{seed}" for seed in seeds}
    roles = {f"train/{seed}" for seed in seeds} | scored
    read = [
        (name, role, digest_of(one))
        for name, i in now.sets.items()
        for role, one in i.contents.items()
        if role in roles
    ]
    return digest_of([now.weights, *sorted(read)])


def record(journal: Journal, known: DataMeasured | None, folder: Path, now: Snapshot) -> None:
    """Write down what is not `known` yet. The file comes first: what the journal says has names."""
    sets = known.sets if known else {}
    if known and all(
        name in sets and set(images.contents) <= set(sets[name].contents) for name, images in now.sets.items()
    ):
        return
    before = _details(folder)
    kept = {name: images.details() for name, images in now.sets.items()}
    for name, former in before.items():
        if name in kept:
            kept[name]["contents"] = kept[name]["contents"] | former["contents"]
    files.write_whole(folder / DETAILS, gzip.compress(json.dumps(kept).encode(), 6, mtime=0))
    journal.append("data", **now.digests())


def check(known: DataMeasured | None, folder: Path, now: Snapshot, remedy: str) -> None:
    """InputError where the data are others than those that the sweep has measured: which, how many, first names."""
    if known and (differing := differences(known, now, _details(folder))):
        rule = "a sweep goes on with the data and the model that it has measured, and these differ"
        raise InputError(f"{rule}:\n" + "\n".join(f"- {one}" for one in differing), file=folder, remedy=remedy)


def differences(known: DataMeasured, now: Snapshot, details: Mapping[str, Any]) -> list[str]:
    """What differs from what was recorded, in sentences."""
    found = []
    if known.weights != now.weights:
        found.append(f"the weights of the model: fingerprint {now.weights}, and it was {known.weights}")
    if known.other_names != now.other_names:
        found.append("the names in the file of task.other_names")
    for name, images in now.sets.items():
        if name in known.sets:
            found += _of_set(name, known.sets[name], images, details.get(name, {}))
    return found


def _of_set(name: str, known: DataSetDigests, now: Images, details: Mapping[str, Any]) -> Iterator[str]:
    digests = now.digests()
    if known.classes != digests["classes"]:
        yield f"{name}: class names{_names(_changed(details.get('classes', ()), now.classes))}"
    for part, former in known.lists.items():
        if former.digest == digests["lists"][part]["digest"]:
            continue
        there = digests["lists"][part]["images"]
        before = details.get("lists", {}).get(part)
        changed = None if before is None else sorted({tuple(one) for one in before} ^ set(now.lists[part]))
        which = "" if changed is None else _names([path for path, *_ in changed]) or ", in another order"
        yield f"{name}: the list {part} has {there} images, and it had {former.images}{which}"
    for part in ("train", "val", "test"):
        yield from _of_contents(name, part, known.contents, now, details.get("contents", {}))


def _of_contents(
    name: str, part: str, known: Mapping[str, str], now: Images, details: Mapping[str, Any]
) -> Iterator[str]:
    """The images of one list, over all seeds, that contain something else than before."""
    roles = [role for role in known if role.partition("/")[0] == part and role in now.contents]
    differing = [role for role in roles if known[role] != digest_of(now.contents[role])]
    if not differing:
        return
    if any(not content for role in differing for *_, content in now.contents[role]):
        return  # it cannot be read, which is said of every such image before anything is encoded
    former = {(path, label): content for role in differing for path, label, content in details.get(role, ())}
    there = {(path, label): content for role in differing for path, label, content in now.contents[role]}
    changed = sorted(path for (path, label), content in there.items() if former.get((path, label), content) != content)
    if changed:
        yield f"{name}: {len(changed)} of {len(there)} images of {part} have another content{_names(changed)}"
    elif set(former) == set(there) or not former:
        yield f"{name}: images of {part} have another content"
    else:
        yield f"{name}: other images of {part} are read{_names(sorted({p for p, _ in set(there) ^ set(former)}))}"


def _changed(before: Sequence[str], now: Sequence[str]) -> list[str]:
    pairs = zip(before, now, strict=False)
    return [f"{former} is now {name}" for former, name in pairs if former != name]


def _names(names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f" ({shown})" if shown else ""


def _details(folder: Path) -> dict[str, Any]:
    """The names behind the digests; nothing where the file is absent or damaged, which costs names alone."""
    try:
        content: dict[str, Any] = json.loads(gzip.decompress((folder / DETAILS).read_bytes()))
    except (OSError, ValueError, EOFError):
        return {}
    return content


def check_model(known: DataMeasured | None, folder: Path, lab: Laboratory) -> None:
    """InputError where class names or weights, of which an export is made, are others than those that were measured."""
    if known is None:
        return
    changed = []
    former = known.sets.get(lab.dataset.name)
    if former and former.classes != digest_of(lab.dataset.classes):
        names = _details(folder).get(lab.dataset.name, {}).get("classes", ())
        changed.append(f"class names of {lab.dataset.name}{_names(_changed(names, lab.dataset.classes))}")
    if known.weights != lab.backbone.fingerprint:
        changed.append(f"the weights of {lab.task.backbone}")
    if changed:
        rule = f"an export is of what was measured, and these differ: {'; '.join(changed)}"
        raise InputError(rule, file=folder, remedy="Put back the files that the sweep was run on.")


def check_attested(attested: Exported, lab: Laboratory, seeds: Sequence[int], file: Path) -> None:
    """InputError where images, names or weights are others than those that an export says it was measured on."""
    data = attested.data
    differing: list[str] = []
    now = lab.digests(seeds) if data.digests == "contents" else lab.digests_by_size(seeds)
    former = {**data.draws, "test": data.test}
    differing += [
        "the test images" if role == "test" else f"the images that seed {role} trains on"
        for role in now
        if now[role] != former.get(role, now[role])
    ]
    if len(lab.dataset.test) != data.test_images:
        differing.append(f"the list test has {len(lab.dataset.test)} images, and it had {data.test_images}")
    names = {name for _, part in attested.classes if part for name in part} - set(attested.classes.given)
    if added := sorted(names - set(lab.dataset.classes)):
        differing.append(f"class names{_names(added)} are not there any more")
    if attested.model.weights != lab.backbone.fingerprint:
        differing.append(
            f"the weights of {lab.task.backbone}: {lab.backbone.fingerprint}, not {attested.model.weights}"
        )
    if differing:
        rule = "an export is trained again on the data and the model that it was measured on, and these differ"
        remedy = "Put them back; or copy config.toml alone to another folder, and train that on the data as they are."
        raise InputError(f"{rule}:\n" + "\n".join(f"- {one}" for one in differing), file=file, remedy=remedy)


def draws_of(known: DataMeasured | None, dataset: Dataset, seeds: Sequence[int]) -> dict[str, str] | None:
    """As `Laboratory.digests`, of what was measured; None where the journal does not say so of every seed."""
    contents = known.sets[dataset.name].contents if known and dataset.name in known.sets else {}
    roles = {str(seed): f"train/{seed}" for seed in seeds} | {"test": "test"}
    return {key: contents[role] for key, role in roles.items()} if set(roles.values()) <= set(contents) else None


def digest(now: Snapshot) -> str:
    """All of it in one digest, to compare two machines."""
    return hashlib.sha256(json.dumps(now.digests(), sort_keys=True).encode()).hexdigest()
