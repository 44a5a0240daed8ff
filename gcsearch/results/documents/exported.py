"""Documents of an export: its `metrics.json`, `predict --json`, `landscape --json`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from gcsearch.results.documents.results import Against, Document, Measured, Ranked
from gcsearch.results.tables.table import Heading, Table

if TYPE_CHECKING:
    from pandas import DataFrame


class Classes(Document):
    """Class names of an export, in the order of the rows of its text features."""

    all: tuple[str, ...]
    """Where all classes were trained; then there is no base and no new one."""
    base: tuple[str, ...]
    new: tuple[str, ...]
    given: tuple[str, ...]

    @property
    def trained(self) -> tuple[str, ...]:
        """Those that images were trained on."""
        return self.all or self.base

    @property
    def known(self) -> tuple[str, ...]:
        """Those of the data set."""
        return (*self.all, *self.base, *self.new)


class Data(Document):
    """What was trained and measured on: digests of paths, labels and contents of the images."""

    dataset: str
    digests: Literal["sizes", "contents"] = "sizes"
    """Of what the digests are; former versions took sizes in place of contents."""
    draws: dict[str, str]
    """Per seed, the few-shot images that it trained on."""
    test: str
    test_images: int


class Frozen(Document):
    """The frozen model. `weights` is the fingerprint that loaded weights must have."""

    backbone: str
    pretrained: str | None
    weights: str
    width: int
    embedding: int
    logit_scale: float


class Chosen(Document):
    """How the configuration was chosen; `oracle` where that looked at test images."""

    sweep: str
    objective: str
    oracle: bool
    trials: int
    row: Ranked


class Origin(Document):
    """Where the numbers come from: MLflow's store and run, versions, git commit."""

    tracking: str
    run_id: str
    environment: dict[str, str]


class Temperature(Document):
    """What the logits of an export are divided by for its probabilities, and what that changed.

    `images` are the validation images of trained classes that it was fitted on; `nll` is their mean negative
    log-likelihood in nats and `ece` their expected calibration error in per cent, `..._before` at temperature 1.
    """

    value: float
    images: int
    nll_before: float
    nll: float
    ece_before: float
    ece: float


class Exported(Document):
    """The `metrics.json` of an export."""

    version: Literal[1]
    digest: str
    """Of what classifies: configuration, prompts, names and weights."""
    champion: Measured
    references: tuple[Measured, ...]
    chosen: Chosen
    verdict: tuple[str, ...] = ()
    """What the numbers allow to say of the champion beside the references, in sentences."""
    leads: tuple[Against, ...] = ()
    """The champion minus each reference, paired by seed; those that have no seed in common are left out."""
    classes: Classes
    data: Data
    model: Frozen
    origin: Origin
    temperature: Temperature | None = None
    """None where none was fitted: probabilities are those of the logits as they are."""


class Guess(Document):
    """A class with its probability, the softmax of the mean logits over the classes in question.

    The logits are divided by the export's temperature first where it has one; `logit` is not.
    """

    name: str
    probability: float
    logit: float


class Classified(Document):
    """An image with its likeliest classes, best first."""

    image: str
    top: tuple[Guess, ...]


class Predictions(Document):
    """What `predict --json` prints. The logits are the mean over `seeds`."""

    export: str
    method: str
    seeds: tuple[int, ...]
    classes: tuple[str, ...]
    images: tuple[Classified, ...]

    def to_frame(self) -> DataFrame:
        """A row for each image and class that was guessed, the likeliest first."""
        from pandas import DataFrame

        rows = [
            {"image": one.image, "place": place, **guess.dump()}
            for one in self.images
            for place, guess in enumerate(one.top, start=1)
        ]
        return DataFrame(rows)

    def table(self) -> Table:
        """The likeliest classes of every image, a row each."""
        seeds = ", ".join(map(str, self.seeds))
        which = f"seed {seeds}" if len(self.seeds) == 1 else f"mean over the logits of seeds {seeds}"
        rows = [
            [one.image if place == 0 else "", guess.name, f"{guess.probability:.4f}"]
            for one in self.images
            for place, guess in enumerate(one.top)
        ]
        headings = [Heading("image", words=True), Heading("class", words=True), Heading("probability")]
        likeliest = frozenset((line, 1) for line, row in enumerate(rows) if row[0])
        return Table(f"{self.method}, {which}, among {len(self.classes)} classes", headings, rows, strong=likeliest)


class Sharp(Document):
    """Loss and sharpness of one seed's prompt."""

    seed: int
    images: int
    loss: float
    gradient_norm: float
    sharpness: float
    """The largest rise of the loss found within `rho`."""
    eigenvalue: float
    """The largest of the Hessian."""


class Sharpnesses(Document):
    """What `landscape --json` prints."""

    export: str
    method: str
    rho: float
    seeds: tuple[Sharp, ...]

    def table(self) -> Table:
        """A row for each seed."""
        title = (
            f"{self.method}: loss on training images, its largest rise within rho = {self.rho:.4g}, and the largest "
            "eigenvalue of its Hessian"
        )
        headings = [Heading("seed", words=True)]
        headings += map(Heading, ("images", "loss", "gradient norm", "sharpness", "eigenvalue"))

        def cells(one: Sharp) -> list[str]:
            numbers = (one.loss, one.gradient_norm, one.sharpness, one.eigenvalue)
            return [str(one.seed), str(one.images), *(f"{number:.5g}" for number in numbers)]

        return Table(title, headings, list(map(cells, self.seeds)))
