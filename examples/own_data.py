"""Pictures of your own, a folder per class: from the folder to a classifier.

Draws six kinds of shapes, so that it runs as it is. For yours: leave `draw` out, name your folder and a real
CLIP, `"backbone": "ViT-B-16", "pretrained": "openai"`, and drop `cap`.
"""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

import gcsearch

KINDS = {
    "red circle": (200, 40, 40),
    "blue circle": (50, 70, 200),
    "green square": (40, 160, 60),
    "purple square": (130, 50, 160),
    "orange circle": (240, 140, 30),
    "yellow square": (230, 220, 60),
}


def draw(folder: Path) -> None:
    """Twenty pictures of each kind, none like the other."""
    random = np.random.default_rng(0)
    for kind, colour in KINDS.items():
        (folder / kind).mkdir(parents=True, exist_ok=True)
        for number in range(20):
            picture = Image.fromarray(random.integers(120, 255, (64, 64, 3), dtype=np.uint8))
            x, y, size = map(int, random.integers(6, 24, 3))
            pen = ImageDraw.Draw(picture)
            shape = pen.ellipse if kind.endswith("circle") else pen.rectangle
            fill = tuple(map(int, np.clip(colour + random.normal(0, 70, 3), 0, 255)))  # no two shades alike
            shape([(x, y), (x + size + 12, y + size + 12)], fill=fill)
            picture.save(folder / kind / f"{number}.png")


def main() -> None:
    draw(Path("pictures"))
    pipeline = gcsearch.Pipeline.from_dict(
        {
            "name": "own-data",
            "evaluate_every": 5,
            "task": {
                "dataset": "folder:pictures",
                "root": ".",
                "backbone": "mini",
                "shots": 4,
                "folds": 1,
                "views": 2,
            },
            "search": {"trials": 8, "cap": {"epochs": 100}},
            "confirm": {"top": 2, "seeds": [4, 5, 6], "references": ["zeroshot", "coop"]},
        }
    )
    sweep = gcsearch.run(pipeline, executor="local")
    numbers = sweep.to_frame()
    tested = numbers[numbers["metric"].isin(["test_base_acc", "test_new_acc", "test_h"])]
    print(tested.pivot_table(index="label", columns="metric", values="value", aggfunc="mean").round(2))

    export = gcsearch.load_export(sweep.export("best", force=True))
    print(export.predict("pictures/red circle", top=2).to_frame().head(4))


if __name__ == "__main__":
    main()
