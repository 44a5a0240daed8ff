"""Benchmark (a): one step of GCSCoOp, as the published protocol describes it, against ours.

    python benchmarks/step.py                      # ViT-B/16-sized towers, 19 and 50 classes, batch of 128
    python benchmarks/step.py --quick              # tiny towers; checks that both compute the same gradient

Reference: what the published training does in each step of one prompt: the batch's images through the image
encoder, the prompts of all classes at their full 77 tokens through the text encoder, cross-entropy, backward;
the perturbation; all of that once more at the perturbed context, with the images encoded again; the choice
between the two gradients.  Written here with open_clip's own encoders, in float32, weights frozen.

Ours: one epoch of one step of `gcsearch.training.population.Population`, with image features from the cache.

Both run in this process, after one another, with the same threads, on the same random weights (a model with
trained weights costs the same).  The ratio is reference seconds per step over ours per member-step.  The
optimiser's own step is not counted on the reference's side, to its advantage.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from common import Hardware, add_flags, build, names_of, population, print_table, seconds, settle

from gcsearch.methods.rules import Step, constrain_gradient

RHO, BETA1, BETA2 = 0.1, 0.5, 0.8


class Reference:
    """The published step for one prompt: images and full-length texts in both passes."""

    def __init__(self, model, backbone, names, device):
        self.model = model
        tokens = [[49406, *[343] * 4, *backbone.tokenize(f"{name}."), 49407] for name in names]
        table = torch.zeros(len(names), 77, dtype=torch.long)
        for row, ids in zip(table, tokens, strict=True):
            row[: len(ids)] = torch.tensor(ids)
        self.eot = table.argmax(-1).to(device)
        with torch.no_grad():
            self.embedded = model.token_embedding(table.to(device))

    def gradient(self, context, pixels, labels):
        """The gradient of the loss at the context [4, D]; both encoders run."""
        context = context.detach().requires_grad_()
        with torch.no_grad():
            images = F.normalize(self.model.encode_image(pixels), dim=-1)
        count = len(self.embedded)
        states = torch.cat([self.embedded[:, :1], context.expand(count, -1, -1), self.embedded[:, 5:]], dim=1)
        states = self.model.transformer(states + self.model.positional_embedding, attn_mask=self.model.attn_mask)
        pooled = self.model.ln_final(states)[torch.arange(count), self.eot] @ self.model.text_projection
        logits = self.model.logit_scale.exp() * images @ F.normalize(pooled, dim=-1).T
        loss = F.cross_entropy(logits, labels)
        return torch.autograd.grad(loss, context)[0]

    def step(self, context, pixels, labels):
        """The gradient that the optimiser is given."""
        plain = self.gradient(context, pixels, labels)
        moved = context + RHO * plain / (plain.norm() + 1e-12)
        perturbed = self.gradient(moved, pixels, labels)
        low, high = torch.tensor([BETA1]), torch.tensor([BETA2])
        return constrain_gradient(plain[None], perturbed[None], low.to(plain), high.to(plain)).gradient[0]


def compare(sizes, classes, args):
    """One row of the table: seconds of both, and how far their gradients are apart."""
    model, backbone = build(sizes, args.device, args.precision)
    names = names_of(classes)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(args.batch, 3, sizes.image, sizes.image, generator=generator).to(args.device)
    with torch.no_grad():
        images = torch.cat([F.normalize(model.encode_image(part), dim=-1) for part in pixels.split(32)]).cpu()
    labels = torch.randint(classes, (args.batch,), generator=generator)
    ours = population(backbone, names, images, labels, args.members, rho=RHO, beta1=BETA1, beta2=BETA2)
    reference = Reference(model, backbone, names, args.device)
    start = ours.parameters[0].clone()
    expected = reference.step(start, pixels, labels.to(args.device))
    batch = images.expand(args.members, -1, -1).to(args.device)
    step = Step(lambda at: ours.gradients(at, batch, ours.labels), ours.parameters, ours.numbers)
    got = ours.method.rule.update(step).gradient[0]
    apart = ((got - expected).norm() / expected.norm()).item()
    slow = seconds(lambda: reference.step(start, pixels, labels.to(args.device)), args.repeats, warm=True)
    fast = seconds(ours.train_epoch, args.repeats * 10) / args.members
    return slow, fast, apart


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_flags(parser)
    parser.add_argument("--classes", type=int, nargs="+", default=[19, 50])
    parser.add_argument("--batch", type=int, default=128, help="images of a batch [the published 128]")
    parser.add_argument("--members", type=int, default=1, help="prompts that ours trains at once")
    parser.add_argument("--repeats", type=int, default=1)
    args = parser.parse_args()
    sizes = settle(args, quick={"classes": [5], "batch": 8})
    print(Hardware.here(args))
    rows = []
    for classes in args.classes:
        slow, fast, apart = compare(sizes, classes, args)
        rows.append(
            [classes, args.batch, args.members, f"{slow:.3f}", f"{fast:.4f}", f"{slow / fast:.0f}", f"{apart:.1e}"]
        )
    print_table(
        ["classes", "batch", "members", "reference s/step", "ours s/member-step", "ratio", "gradients apart"], rows
    )


if __name__ == "__main__":
    main()
