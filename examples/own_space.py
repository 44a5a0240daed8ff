"""A search space of your own: which method, and which of its hyperparameters, in which ranges.

Two methods in one space, an upper bound that follows another parameter, a parameter that only one method has, and a
configuration that is tried first. docs/search.md has all that a space can say.
"""

from pathlib import Path

import gcsearch

SPACE = """
version = 1
methods = ["kgcoop", "gcscoop"]

[parameters.lr]                     # both have it
low = 0.001
high = 0.02
log = true

[parameters.epochs]
choices = [10, 20]

[parameters.kg_lambda]              # KgCoOp's alone
low = 1.0
high = 16.0
log = true
when = { method = "kgcoop" }

[parameters.rho]                    # from here on GCSCoOp's
low = 0.01
high = 1.0
log = true
when = { method = "gcscoop" }

[parameters.beta1]
low = 0.0
high = 0.9
at_most = "beta2"                   # never above it, by construction
when = { method = "gcscoop" }

[parameters.beta2]
low = 0.5
high = 1.0
when = { method = "gcscoop" }

[[points]]                          # tried before anything is proposed
label = "wide"
method = "gcscoop"
lr = 0.002
epochs = 20
rho = 0.3
beta1 = 0.2
beta2 = 0.9
"""


def main() -> None:
    Path("mine.toml").write_text(SPACE)
    pipeline = gcsearch.Pipeline.from_dict(
        {
            "name": "own-space",
            "evaluate_every": 5,
            "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "folds": 2, "seeds": [1, 2]},
            "search": {"space": "./mine.toml", "trials": 8},
            "confirm": {"top": 2, "seeds": [4, 5, 6], "references": ["zeroshot", "coop", "wide"]},
        }
    )
    sweep = gcsearch.run(pipeline, executor="local")
    ranked = sweep.ranking.to_frame().query("metric == 'val_base_margin'")
    print(ranked.groupby(["rank", "trial", "method"])["value"].agg(["mean", "std"]).head(5).round(2))
    print(sweep.champion.config.describe())


if __name__ == "__main__":
    main()
