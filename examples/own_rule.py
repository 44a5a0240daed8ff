"""A gradient rule of your own, searched like the ones that ship.

This one looks at the gradient at distance `rho`, as SAM does, and follows it only where both gradients agree in sign. A
rule is a frozen set of hyperparameters with an `update`. All seeds of all configurations of a pack are computed at
once: tensors are [members, ...], and a rule computes each member by itself.
"""

from pathlib import Path

import gcsearch

rules = gcsearch.rules


class SignAgreement(rules.Sharpness):
    """The perturbed gradient's entries whose sign is that of the plain one's; the others stand still.

    `rho` comes with `Sharpness`; a field with a default would be a further hyperparameter.
    """

    def update(self, at: rules.Step) -> rules.Update:
        """One step: the plain gradient, the one ahead, and what of it is followed."""
        loss, plain = at.gradients(at.parameters)
        ahead, cosine = at.look_ahead(plain, rules.perturbation(plain, at.numbers["rho"]))
        return rules.Update(loss, ahead.where(plain.sign() == ahead.sign(), 0.0), cosine)


SPACE = """
version = 1
method = "signs"

[parameters.rho]
low = 0.01
high = 1.0
log = true

[parameters.lr]
low = 0.001
high = 0.02
log = true

[parameters.epochs]
value = 100
"""


def main() -> None:
    """Register the rule, search its space, and put it beside SAM and CoOp."""
    gcsearch.register_rule("signs", SignAgreement(), title="sign agreement")
    Path("signs.toml").write_text(SPACE)
    pipeline = gcsearch.Pipeline.from_dict(
        {
            "name": "own-rule",
            "evaluate_every": 5,
            "task": {"dataset": "shapes-sketch", "shots": 4, "views": 2, "folds": 2, "seeds": [1, 2]},
            "search": {"space": "./signs.toml", "trials": 8},
            "confirm": {"top": 2, "seeds": [4, 5, 6], "references": ["zeroshot", "coop", "sam"]},
        }
    )
    sweep = gcsearch.run(pipeline, executor="local")
    numbers = sweep.to_frame()
    tested = numbers[numbers["metric"] == "test_h"]
    print(tested.groupby("label")["value"].agg(["mean", "std"]).round(2))


if __name__ == "__main__":
    main()
