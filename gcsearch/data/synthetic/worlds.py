"""The embedded world: small image data sets that are drawn, not downloaded.

An object is a *look*: a shape, with or without a colour, with or without a pattern.  Its class name is
the same thing in words, "red striped star".  Each world draws its looks in one style and writes them as
an ordinary data set, so that everything behind it reads them like Oxford Pets:

    ROOT/<folder>/images/<class-slug>/<nnn>.png
    ROOT/<folder>/split_zhou_<Name>.json      {"train": [[path under images/, label, class name], ...], ...}
    ROOT/<folder>/world.json                  what it was drawn from, see `recipe`

`world:SEED` is one more such data set for each seed, see `generated`.

Every image has a generator of its own, seeded by (seed, world, split, class, index): an image does not
depend on which others are drawn, or in which order.  The same Pillow and NumPy give the same bytes.

The worlds are a test bed.  Nothing measured on them is a result about photographs or about real CLIP.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gcsearch.data.synthetic import generated
from gcsearch.data.synthetic.drawing import RECIPE, SIDE, Look
from gcsearch.data.synthetic.styles import PLAIN, Finish, render
from gcsearch.errors import InputError, unknown_name

SPLITS = ("train", "val", "test")


# --------------------------------------------------------------------------------------------- worlds
@dataclass(frozen=True, kw_only=True)
class World:
    """One data set of the embedded world."""

    name: str
    title: str
    """As in the split file's name."""
    style: str
    class_names: tuple[str, ...]
    """In the order of the labels; the first half is "base", the second "new"."""
    description: str
    train: int = 20
    """Images per class, also for the next two."""
    val: int = 16
    test: int = 40
    clutter: float = 0.5
    finish: Finish = PLAIN
    seed: int = 1

    @property
    def folder(self) -> str:
        return re.sub("[-:]", "_", self.name)

    @property
    def split_file(self) -> str:
        return f"split_zhou_{self.title}.json"

    @property
    def counts(self) -> dict[str, int]:
        """Images per class in each split."""
        return {"train": self.train, "val": self.val, "test": self.test}

    @property
    def images(self) -> int:
        """All images of the data set."""
        return len(self.class_names) * sum(self.counts.values())

    def recipe(self, seed: int) -> dict[str, object]:
        """What decides every pixel; written beside the images, compared before they are reused."""
        told: dict[str, object] = {
            "name": self.name,
            "recipe": RECIPE,
            "seed": seed,
            "style": self.style,
            "side": SIDE,
            "clutter": self.clutter,
            "counts": self.counts,
            "class_names": list(self.class_names),
        }
        finish = asdict(self.finish) | {"cast": list(self.finish.cast)}
        return told if self.finish == PLAIN else told | {"finish": finish}

    def image(self, split: str, label: int, index: int, *, seed: int | None = None) -> NDArray[np.uint8]:
        """Draws image `index` of a class and split from the generator that belongs to it alone."""
        key = (zlib.crc32(self.name.encode()), SPLITS.index(split), label, index)
        sequence = np.random.SeedSequence((self.seed if seed is None else seed, *key))
        look = Look.parse(self.class_names[label])
        rng = np.random.Generator(np.random.PCG64(sequence))
        return render(look, self.style, rng, clutter=self.clutter, finish=self.finish)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.replace("\n", " ").split(","))


_WORLDS = (
    World(
        name="shapes-photo",
        title="ShapesPhoto",
        style="photo",
        description="24 objects as the bundled model knows them: lit, shaded, on coloured ground",
        class_names=_names(
            """red star, red striped star, orange fish, brown spotted fish, butterfly, blue circle,
            purple hexagon, yellow crown, dark green pine tree, grey checkered square, pink heart,
            light blue two tone umbrella,
            yellow star, green striped star, turquoise fish, black spotted fish, key, light blue circle,
            pink hexagon, red crown, brown pine tree, blue checkered square, red heart,
            orange two tone umbrella"""
        ),
    ),
    World(
        name="shapes-sketch",
        title="ShapesSketch",
        style="sketch",
        description="24 objects in pencil: grey outlines, the colour only as thin hatching",
        class_names=_names(
            """red star, blue striped star, orange fish, green spotted fish, butterfly, purple circle,
            blue hexagon, yellow crown, dark green pine tree, red checkered square, pink heart,
            light blue two tone umbrella,
            yellow star, green striped star, turquoise fish, brown spotted fish, key, red circle,
            orange hexagon, purple crown, brown pine tree, blue checkered square, red heart,
            dark green two tone lightning bolt"""
        ),
    ),
    World(
        name="shapes-night",
        title="ShapesNight",
        style="night",
        description="24 objects under one weak lamp, in bluish light with sensor noise",
        class_names=_names(
            """red house, white striped house, yellow arrow, blue spotted arrow, mushroom, green cross,
            pink ring, orange diamond, light blue cloud, green two tone sailboat, purple checkered triangle,
            white crescent moon,
            pink house, orange striped house, turquoise arrow, red spotted arrow, flower, yellow cross,
            blue ring, green diamond, grey cloud, red two tone sailboat, white checkered triangle,
            yellow crescent moon"""
        ),
    ),
    World(
        name="shapes-mosaic",
        title="ShapesMosaic",
        style="mosaic",
        description="20 objects laid in coarse tiles: colours are clear, outlines and patterns are not",
        class_names=_names(
            """red heart, orange heart, orange circle, orange diamond, blue diamond, purple square,
            pink cross, black arrow, green two tone raindrop, dark green pine tree,
            pink heart, brown heart, red circle, red diamond, purple diamond, blue square, red cross,
            yellow arrow, blue two tone raindrop, green pine tree"""
        ),
    ),
    World(
        name="shapes-neon",
        title="ShapesNeon",
        style="neon",
        description="20 objects as glowing tubes: outlines are clear, colours shine and run together",
        class_names=_names(
            """red key, blue striped fish, yellow lightning bolt, green crown, pink butterfly, umbrella,
            turquoise raindrop, purple spotted mushroom, orange house, white star,
            yellow key, pink striped fish, light blue lightning bolt, red crown, purple butterfly, sailboat,
            blue raindrop, green spotted mushroom, white house, orange star"""
        ),
    ),
    World(
        name="shapes-chalk",
        title="ShapesChalk",
        style="chalk",
        description="24 objects in dusty chalk on a dark board: pale colours, broken surfaces",
        class_names=_names(
            """white cloud, pink striped cloud, yellow flower, red spotted flower, orange triangle,
            blue checkered circle, green ring, purple diamond, cross, light blue crescent moon,
            turquoise two tone arrow, brown house,
            light blue cloud, yellow striped cloud, purple flower, blue spotted flower, green triangle,
            red checkered circle, white ring, orange diamond, hexagon, yellow crescent moon,
            pink two tone arrow, turquoise house"""
        ),
    ),
    World(
        name="shapes-many",
        title="ShapesMany",
        style="watercolour",
        description="48 objects in watercolour, many of them close to one another",
        clutter=1.0,
        class_names=_names(
            """red star, red striped star, red spotted star, orange star, orange checkered heart, pink heart,
            purple heart, purple two tone heart, blue circle, light blue circle, turquoise ring,
            turquoise striped ring, green fish, dark green spotted fish, green pine tree,
            dark green striped pine tree, brown house, brown checkered house, grey mushroom,
            black spotted mushroom, yellow crown, orange two tone crown, key, raindrop,
            pink star, pink striped star, purple spotted star, yellow star, red checkered heart, brown heart,
            orange heart, blue two tone heart, dark green circle, green circle, grey ring,
            black striped ring, turquoise fish, blue spotted fish, brown pine tree,
            orange striped pine tree, light blue house, red checkered house, pink mushroom,
            yellow spotted mushroom, purple crown, green two tone crown, umbrella, lightning bolt"""
        ),
    ),
)

WORLDS: Mapping[str, World] = MappingProxyType({world.name: world for world in _WORLDS})
"""Those that have a name; `find` knows `world:SEED` too."""

GENERATED = "world:SEED"

_SEED = re.compile(r"world[:-](0|[1-9]\d{0,8})")
"""Of a generated world, as a user names it and as files and metrics do (`plain_name`)."""


def is_embedded(name: str) -> bool:
    """Whether the data set comes with gcsearch."""
    return name in WORLDS or _SEED.fullmatch(name) is not None


def find(name: str) -> World:
    """The world of a name in `WORLDS`, or the one that is drawn from the seed of `world:SEED`.

    Raises:
        InputError: neither.
    """
    if name in WORLDS:
        return WORLDS[name]
    seed = _SEED.fullmatch(name)
    if seed is None:
        raise unknown_name("world", name, [*WORLDS, GENERATED])
    return _generated(int(seed[1]))


def written(root: Path) -> list[str]:
    """The generated worlds that lie below `root`."""
    names = (f"world:{path.parent.name.removeprefix('world_')}" for path in sorted(root.glob("world_*/world.json")))
    return [name for name in names if is_embedded(name)]


@cache
def _generated(seed: int) -> World:
    draw = generated.Draw(seed)
    style, finish, names = generated.style(draw), generated.finish(draw), generated.class_names(draw)
    clutter = draw.between(0, 1.5)
    return World(
        name=f"world:{seed}",
        title=f"World{seed}",
        style=style,
        class_names=names,
        description=f"{len(names)} objects in the style {style}, drawn from the seed {seed}",
        train=32,
        test=100,
        clutter=round(clutter, 2),
        finish=finish,
    )


# -------------------------------------------------------------------------------------------- writing
STALE_AFTER = 3600.0
"""Seconds after which a half-written folder of a killed process is swept away."""


def write_dataset(
    name: str,
    root: Path,
    *,
    seed: int | None = None,
    on_image: Callable[[int, int], None] | None = None,
) -> Path:
    """Draws a world and writes it as a data set below `root`; returns at once where it is there already.

    It is written beside its place and renamed at the end, so a reader sees all of it or nothing, two
    processes may do this at once, and a killed one leaves only a hidden `.<folder>.*` behind.

    Args:
        name: a name in `WORLDS`, or `world:SEED`.
        root: the folder of all data sets; made where absent.
        seed: other than the world's own, for other draws of the same classes.
        on_image: called with (images done, images in all).

    Returns:
        ROOT/<folder>.

    Raises:
        InputError: the name is unknown, or the folder is there but is incomplete or something else.
    """
    world = find(name)
    seed = world.seed if seed is None else seed
    target = root / world.folder
    if target.exists():
        _check(target, world, seed)
        return target
    root.mkdir(parents=True, exist_ok=True)
    _sweep(root, world)
    aside = Path(tempfile.mkdtemp(prefix=f".{world.folder}.", dir=root))
    try:
        _fill(aside, world, seed, on_image)
        aside.chmod(0o755)
        try:
            aside.rename(target)
        except OSError:
            if not target.exists():
                raise
            _check(target, world, seed)  # another process was faster; its images are the same
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return target


def _sweep(root: Path, world: World) -> None:
    for left in root.glob(f".{world.folder}.*"):
        if time.time() - left.stat().st_mtime > STALE_AFTER:
            shutil.rmtree(left, ignore_errors=True)


def _items(world: World) -> Iterator[tuple[str, int, int, str]]:
    """(split, label, index in the split, path under images/) of every image, in the split file's order."""
    first = {"train": 0, "val": world.train, "test": world.train + world.val}
    for split, count in world.counts.items():
        for label, name in enumerate(world.class_names):
            for index in range(count):
                yield split, label, index, f"{name.replace(' ', '-')}/{first[split] + index:03d}.png"


def _fill(folder: Path, world: World, seed: int, on_image: Callable[[int, int], None] | None) -> None:
    split: dict[str, list[tuple[str, int, str]]] = {part: [] for part in SPLITS}
    for name in world.class_names:
        (folder / "images" / name.replace(" ", "-")).mkdir(parents=True)
    for done, (part, label, index, path) in enumerate(_items(world), start=1):
        picture = Image.fromarray(world.image(part, label, index, seed=seed))
        picture.save(folder / "images" / path, format="PNG", compress_level=6)
        split[part].append((path, label, world.class_names[label]))
        if on_image is not None:
            on_image(done, world.images)
    (folder / world.split_file).write_text(json.dumps(split), encoding="utf-8")
    (folder / "world.json").write_text(json.dumps(world.recipe(seed), indent=1), encoding="utf-8")


def _check(folder: Path, world: World, seed: int) -> None:
    """Passes only over a folder that this recipe wrote and that still holds every image."""
    remedy = "Move or delete the folder and run again, or choose another root."
    try:
        found = json.loads((folder / "world.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"the folder must have been written from world {world.name!r} (it has no readable world.json)",
            file=folder,
            remedy=remedy,
        ) from None
    expected = world.recipe(seed)
    for key, value in expected.items():
        received = found.get(key) if isinstance(found, dict) else found
        if received != value:
            rule = f"the folder must hold world {world.name!r} as asked for, where {key} is {value!r}"
            raise InputError(rule, file=folder / "world.json", key=key, received=received, remedy=remedy)
    present = sum(1 for path in (folder / "images").glob("*/*.png") if path.stat().st_size > 0)
    if present != world.images or not (folder / world.split_file).is_file():
        rule = f"the folder must hold all {world.images} images and {world.split_file}"
        raise InputError(rule, file=folder, received=f"{present} images", remedy=remedy)
