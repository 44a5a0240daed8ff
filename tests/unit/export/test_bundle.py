"""An export says the truth about every kind of method, and is read back as a classifier."""

from __future__ import annotations

import json
import shlex
import shutil
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
import yaml
from PIL import Image

from gcsearch.clip import model
from gcsearch.config.task import Task
from gcsearch.config.trials import TrialConfig
from gcsearch.data.lists.folders import SkippedFilesWarning
from gcsearch.errors import InputError
from gcsearch.export import authors, bundle, words
from gcsearch.export import classifier as prediction
from gcsearch.export.bundle import Champion
from gcsearch.export.card import chosen_with
from gcsearch.export.temperature import best_temperature
from gcsearch.methods import registry
from gcsearch.results.documents import Exported, Objective
from gcsearch.stats import accuracy
from tests.support.exports import KINDS, a_champion
from tests.support.schema import check


@pytest.fixture
def exported(at_home, tmp_path):
    def make(method, **values):
        return bundle.write(
            tmp_path / method, a_champion(at_home, method, KINDS[method] | values), at_home, given=["a lamp", "owl"]
        )

    return make


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


ALWAYS = {"config.toml", "metrics.json", "card.md"}


def test_of_a_shared_prompt_everything_is_there(exported):
    folder = exported("gcscoop")
    assert written(folder) == set(bundle.FILES)
    facts = json.loads((folder / "metrics.json").read_text())
    check(facts, "metrics.json")
    assert facts["classes"]["given"] == ["a lamp"]  # the owl is a class already
    assert set(facts["data"]["draws"]) == {"4", "5"}
    with safetensors.safe_open(folder / "text_features.safetensors", "pt") as file:
        names = json.loads(file.metadata()["names"])
        rows = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert [len(rows[key]) for key in ("seed_4", "seed_5", "mean")] == [sum(map(len, names.values()))] * 3 == [9] * 3
    torch.testing.assert_close(rows["mean"], (rows["seed_4"] + rows["seed_5"]) / 2)
    card = (folder / "card.md").read_text()
    assert "# GCSCoOp on tiny, mini" in card and "Chosen among 7 configurations" in card
    assert f"- few-shot images of seed 5: `{facts['data']['draws']['5']}`" in card
    assert "- MLflow: run `r1` in sqlite:////somewhere/mlflow.db" in card


def test_of_an_image_conditional_prompt_there_are_no_text_features_and_the_card_says_why(at_home, tmp_path):
    champion = a_champion(at_home, "cocoop", KINDS["cocoop"])
    folder = bundle.write(tmp_path / "cocoop", champion, at_home)
    assert written(folder) == ALWAYS | {"prompt.safetensors", "words.md"}
    assert "this method makes them anew for every image" in (folder / "card.md").read_text()
    assert "before the small network shifts them" in (folder / "words.md").read_text()
    with pytest.raises(InputError, match=r"--classes: CoCoOp's text features depend on the image.*\n.*predict"):
        bundle.write(tmp_path / "other", champion, at_home, given=["lamp"])
    assert not (tmp_path / "other").exists()


def test_class_specific_vectors_have_features_of_their_own_classes_alone(at_home, tmp_path):
    champion = a_champion(at_home, "coop", KINDS["coop"])
    folder = bundle.write(tmp_path / "csc", champion, at_home)
    facts = json.loads((folder / "metrics.json").read_text())
    assert (len(facts["classes"]["base"]), facts["classes"]["new"]) == (4, [])
    assert "test_new_acc" not in facts["champion"]["metrics"]
    assert "## Seed 4, red dog" in (folder / "words.md").read_text()
    with pytest.raises(InputError, match="vectors of its own, which fit no other name"):
        bundle.write(tmp_path / "other", champion, at_home, given=["lamp"])
    opened = prediction.load_export(folder)
    with pytest.raises(InputError, match="vectors of its own, which fit no other name"):
        opened.classifier.text(["lamp"])


def test_zero_shot_has_features_but_no_prompt(exported):
    folder = exported("zeroshot")
    assert written(folder) == ALWAYS | {"text_features.safetensors"}
    assert "zero-shot CLIP trains nothing" in (folder / "card.md").read_text()


@pytest.mark.parametrize("method", KINDS)
def test_an_export_read_back_classifies_to_the_confirmed_accuracy(at_home, tmp_path, method):
    champion = a_champion(at_home, method, KINDS[method])
    opened = prediction.load_export(bundle.write(tmp_path / "best", champion, at_home))
    lab, base = at_home, opened.facts.classes.base
    items = [item for item in lab.dataset.test if item.label in lab.halves[0]]
    labels = torch.tensor([lab.halves[0].index(item.label) for item in items])
    images = opened.classifier.encode([lab.dataset.images / item.path for item in items])
    torch.testing.assert_close(images, lab.cache.fixed(lab.dataset, items).float(), rtol=0, atol=1e-3)
    for seed, stated in zip((4, 5), champion.record.metrics["test_base_acc"], strict=True):
        logits = opened.classifier.logits(images, base, seed)
        assert 100 * float((logits.argmax(1) == labels).float().mean()) == pytest.approx(stated)
    each = torch.stack([opened.classifier.logits(images, base, seed) for seed in (4, 5)])
    torch.testing.assert_close(opened.classifier.logits(images, base), each.mean(0))
    if method != "cocoop":
        (first, _) = opened.classifier.text(opened.names)
        assert accuracy(images, first[: len(base)], labels) == champion.record.metrics["test_base_acc"][0]


def test_prediction_shows_the_likeliest_classes_of_every_image_with_shares_of_one(exported, data_root):
    opened = prediction.load_export(exported("gcscoop"))
    paths = sorted((data_root / "tiny" / "images" / "owl").glob("test*"))[:2]
    found = prediction.predict(opened, paths, top=8)
    check(found.dump(), "gcsearch predict --json")
    assert [one.image for one in found.images] == list(map(str, paths))
    assert found.seeds == (4, 5) and len(found.classes) == 8
    for one in found.images:
        shares = [guess.probability for guess in one.top]
        assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    assert {guess.name for guess in prediction.predict(opened, paths, names=["sun", "moon"], top=5).images[0].top} == {
        "sun",
        "moon",
    }


def test_an_export_predicts_into_a_data_frame(exported, data_root):
    opened = prediction.load_export(exported("gcscoop"))
    folder = data_root / "tiny" / "images" / "owl"
    frame = opened.predict(folder, top=3).to_frame()
    assert list(frame) == ["image", "place", "name", "probability", "logit"]
    assert len(frame) == 3 * len(list(folder.iterdir())) and set(frame["place"]) == {1, 2, 3}
    assert opened.predict([next(folder.iterdir())]).to_frame()["image"].nunique() == 1


def test_what_cannot_be_predicted_is_named(exported, data_root, tmp_path, at_home, monkeypatch):
    folder = exported("gcscoop")
    opened = prediction.load_export(folder)
    (tmp_path / "thesis.tex").write_text("no image")
    good = next((data_root / "tiny" / "images" / "owl").glob("*"))
    with pytest.raises(InputError, match=r"thesis.tex: every image must be readable, got no image"):
        prediction.predict(opened, [good, tmp_path / "thesis.tex"])
    with pytest.raises(InputError, match=r"gone.png: every image must be readable, got No such file"):
        prediction.predict(opened, [tmp_path / "gone.png"])
    with pytest.raises(InputError, match=r"2 of 3 are not, got .*thesis.tex \(no image .*, .*gone.png \(No such file"):
        prediction.predict(opened, [tmp_path / "thesis.tex", good, tmp_path / "gone.png"])
    with pytest.raises(
        InputError, match=r"--seed: the export holds no prompt of this seed, got 9.\nSeeds in it: 4, 5."
    ):
        prediction.predict(opened, [good], seed=9)
    with pytest.raises(InputError, match="the folder must be an export"):
        prediction.load_export(tmp_path)
    other = at_home.backbone.__class__(**{**vars(at_home.backbone), "fingerprint": "0" * 16})
    monkeypatch.setattr("gcsearch.training.loading.backbone_of", lambda task: other)
    with pytest.raises(
        InputError, match=r"config.toml, task.pretrained: .*was made with the weights .*got weights 0000"
    ):
        prediction.load_export(folder)


def test_of_a_folder_every_image_below_it_is_classified_in_order(exported, data_root, tmp_path):
    opened = prediction.load_export(exported("gcscoop"))
    (source,) = sorted((data_root / "tiny" / "images" / "owl").glob("test*"))[:1]
    for name in ("pics/owl/2.png", "pics/owl/1.png", "pics/dog/3.png", "pics/0.PNG"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, tmp_path / name)
    (tmp_path / "pics" / "owl" / "notes.txt").touch()
    with pytest.warns(SkippedFilesWarning, match=r"pics: 1 file passed over: \.txt 1$"):
        found = prediction.predict(opened, [source, tmp_path / "pics"])
    names = [Path(one.image).relative_to(tmp_path) for one in found.images[1:]]
    assert list(map(str, names)) == ["pics/0.PNG", "pics/dog/3.png", "pics/owl/1.png", "pics/owl/2.png"]
    assert {one.top for one in found.images} == {found.images[0].top}  # the same picture each time
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: a folder to be classified must hold image files"):
        prediction.predict(opened, [source, tmp_path / "empty"])
    (tmp_path / "pics" / "owl" / "notes.txt").unlink()
    (tmp_path / "pics" / "owl" / "1.png").write_bytes(b"%!PS")
    with pytest.raises(InputError, match=r"owl/1.png: every image must be readable, got no image but a PostScript"):
        prediction.predict(opened, [tmp_path / "pics" / "owl"])


def test_bytes_that_are_no_image_are_refused_by_their_place(exported, data_root):
    opened = prediction.load_export(exported("zeroshot"))
    good = next((data_root / "tiny" / "images" / "owl").glob("*")).read_bytes()
    with pytest.raises(InputError, match=r"image 2: every image must be readable, got no image but a PDF document"):
        prediction.guesses(opened, [good, b"%PDF-1.4"], opened.names)


def test_exif_orientation_is_heeded_by_an_export_whose_task_asks_for_it(at_home, tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "lying.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    lying, upright = [], []
    for heeded in (False, True):
        lab = replace(at_home, task=at_home.task.model_copy(update={"exif": heeded}))
        folder = bundle.write(tmp_path / f"best-{heeded}", a_champion(lab, "zeroshot", {}), lab)
        assert tomllib.loads((folder / "config.toml").read_text())["task"]["exif"] is heeded
        classifier = prediction.load_export(folder).classifier
        lying.append(classifier.encode([tmp_path / "lying.png"]))
        upright.append(classifier.encode([tmp_path / "upright.png"]))
    assert torch.equal(upright[0], upright[1])
    assert torch.equal(lying[1], upright[1]) and not torch.equal(lying[0], upright[0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "got no name"),
        ("owl\n\nowl\n", "'owl' twice"),
        ("snowy owl\ncat\nSnowy_Owl", "'snowy owl' and 'Snowy_Owl'"),
        ("owl\n", "two names or more, got the name 'owl'"),
        (None, "readable text file"),
    ],
)
def test_a_list_of_names_has_every_name_once(tmp_path, content, message):
    path = tmp_path / "names.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=f"names.txt, --classes: .*{message}"):
        prediction.read_names(path)


def test_the_digest_follows_what_classifies_and_nothing_else(at_home, tmp_path):
    champion = a_champion(at_home, "gcscoop", KINDS["gcscoop"])

    def digest(one, **arguments):
        folder = bundle.write(tmp_path / "best", one, at_home, force=True, **arguments)
        return Exported.from_dict(json.loads((folder / "metrics.json").read_text())).digest

    first = digest(champion)
    again = Champion(**{**vars(champion), "trials": 9, "tracking": "elsewhere"})
    assert digest(again) == first
    moved = [parameters + 1e-6 for parameters in champion.parameters]
    assert digest(Champion(**{**vars(champion), "parameters": moved})) != first
    assert digest(champion, given=["lamp"]) != first


def test_a_failed_export_leaves_the_former_one(exported, at_home, monkeypatch):
    folder = exported("gcscoop")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr("gcsearch.export.card.write_up", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        bundle.write(folder, a_champion(at_home, "gcscoop", KINDS["gcscoop"]), at_home, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in folder.parent.iterdir()] == ["gcscoop"]


# --- Nearest words --------------------------------------------------------------------------------------


def test_the_nearest_word_to_a_words_embedding_is_the_word(backbone):
    (dog, owl) = backbone.tokenize("dog owl")
    context = backbone.tower.embed([dog, owl])
    first, second = words.nearest(backbone, context + 1e-4, count=3)
    assert (first[0].text, second[0].text) == ("dog", "owl")
    assert first[0].distance == pytest.approx(1e-4 * backbone.tower.width**0.5, rel=1e-2)
    table = backbone.tower.token_embedding
    ids = words.vocabulary(backbone)
    assert [word.distance for word in first] == pytest.approx(
        sorted((table[ids] - context[0] - 1e-4).norm(dim=1).tolist())[:3], rel=1e-3
    )
    assert not {backbone.tower.start, backbone.tower.end} & set(ids.tolist())


def test_a_token_that_does_not_end_a_word_is_marked(backbone):
    first, *rest = (backbone.word(token) for token in backbone.tokenize("pneumonoultramicroscopic"))
    assert first.endswith("-") and not rest[-1].endswith("-")


def test_words_are_shown_as_they_are_read(backbone):
    """Not as the letters that the vocabulary writes for bytes; what cannot be read or seen is escaped."""
    for text in ("photo", "café", "東", "🐶", "naïve"):
        tokens = backbone.tokenize(text)
        if len(tokens) == 1:
            assert backbone.word(tokens[0]) == text
    assert backbone.word(backbone.tokenize("🐶")[-1]) == "🐶"
    part, newline = (model._tokenizer().encoder[letters] for letters in ("Ã", "Ċ</w>"))
    assert (backbone.word(part), backbone.word(newline)) == ("\\xc3-", "\\n")


def test_no_token_breaks_the_table_that_it_stands_in(backbone):
    """Every token of the vocabulary can be printed, on one line, and ends no cell."""
    texts = [backbone.word(token) for token in range(49406)]
    assert all(text.isprintable() and text for text in texts)
    assert not any("</w>" in text for text in texts)
    assert (words._code("a"), words._code("`-"), words._code("||")) == ("`a`", "`` `- ``", r"`\|\|`")


# --- The authors' options -------------------------------------------------------------------------------

PETS = Task(dataset="OxfordPets", backbone="ViT-B-16", pretrained="openai")


def options(method, task=PETS, seeds=(1, 2), **values):
    return authors.options(registry.complete(TrialConfig(method=method, hyperparameters=values)), task, seeds)


def test_a_setting_is_written_in_the_authors_names():
    found = options("gcscoop", rho=0.2, beta1=0.4, beta2=0.7, lr=0.003)
    tree = yaml.safe_load(found.file)
    assert tree["OPTIM"] | {"NAME": "gcsam", "RHO": 0.2, "LOWBOUND": 0.4, "UPBOUND": 0.7, "LR": 0.003} == tree["OPTIM"]
    assert tree["TRAINER"]["COOP"] | {"N_CTX": 4, "CTX_INIT": True, "CSC": False} == tree["TRAINER"]["COOP"]
    assert tree["MODEL"]["BACKBONE"]["NAME"] == "ViT-B/16"
    commands = [line for line in found.commands.splitlines() if not line.startswith("#")]
    first, second = map(shlex.split, commands)
    assert first[first.index("--seed") + 1] == "1" and second[second.index("--seed") + 1] == "2"
    assert first[first.index("--dataset-config-file") + 1] == "configs/datasets/oxford_pets.yaml"
    pairs = dict(zip(first[-16::2], first[-15::2], strict=True))
    assert pairs["OPTIM.RHO"] == "0.2" and pairs["OPTIM.LOWBOUND"] == "0.4" and pairs["OPTIM.UPBOUND"] == "0.7"
    quick = Task(dataset="OxfordPets", backbone="ViT-B-16-quickgelu", pretrained="openai")  # the papers' model
    assert yaml.safe_load(options("gcscoop", quick).file)["MODEL"]["BACKBONE"]["NAME"] == "ViT-B/16"
    assert "OpenAI's weights alone" not in options("gcscoop", quick).file
    # What is given twice is given alike.
    for key, value in pairs.items():
        place = tree
        for part in key.split("."):
            place = place[part]
        assert str(place) == value


def test_the_lower_bound_that_is_off_and_sam():
    assert yaml.safe_load(options("gcscoop", beta1="off").file)["OPTIM"]["LOWBOUND"] == 0.0
    tree = yaml.safe_load(options("sam", rho=0.3).file)["OPTIM"]
    assert (tree["NAME"], tree["RHO"]) == ("sam", 0.3) and "LOWBOUND" not in tree


@pytest.mark.parametrize(
    ("method", "values", "reason"),
    [
        ("kgcoop", {}, "not for kgcoop"),
        ("kgcoop+gcscoop", {}, "not for kgcoop+gcscoop"),
        ("zeroshot", {}, "not for zeroshot"),
        ("gcscoop", {"ctx_init": "one photo"}, "not from 'one photo'"),
        ("gcscoop", {"class_specific": True}, "ignores class-specific vectors where they start from words"),
    ],
)
def test_what_the_authors_code_cannot_run_is_said_and_not_written(method, values, reason):
    found = options(method, **values)
    assert not found.file and not found.commands
    assert found.reason.endswith(f"{reason}.")


def test_what_their_code_lacks_is_noted():
    found = options("gcscoop", task=Task(), seeds=(0, 1))
    assert "It has no data set shapes-sketch" in found.file and "these results are from mini." in found.file
    assert "MODEL" not in yaml.safe_load(found.file)
    assert found.commands.count("train.py --root") == 1 and "seed 0 is left out" in found.commands


@pytest.mark.parametrize("backbone", ["ViT-L-14", "ViT-L-14-336", "ViT-H-14", "RN50x64", "RN50x64-quickgelu"])
def test_a_backbone_that_is_not_in_the_authors_table_is_not_named_and_said(backbone):
    found = options("gcscoop", task=PETS.model_copy(update={"backbone": backbone}))
    assert "MODEL" not in yaml.safe_load(found.file)
    assert f"has no {backbone}, which these results are from." in found.file
    assert f"has no {backbone}" in found.commands


@pytest.mark.parametrize(
    ("backbone", "theirs", "side"), [("ViT-B-32", "ViT-B/32", 224), ("RN50x16-quickgelu", "RN50x16", 384)]
)
def test_a_backbone_of_the_authors_table_is_named_as_there_with_its_image_size(backbone, theirs, side):
    found = options("gcscoop", task=PETS.model_copy(update={"backbone": backbone}))
    tree = yaml.safe_load(found.file)
    assert tree["MODEL"]["BACKBONE"]["NAME"] == theirs
    assert tree["INPUT"]["SIZE"] == [side, side]
    assert "table of models" not in found.file


def test_the_interval_of_a_margin_is_not_cut_off_where_accuracies_end():
    numbers = {"mean": -0.4, "deviation": 0.2, "interval": (-0.9, 0.1), "per_seed": {}}
    assert chosen_with(Objective(name="val_base_margin", oracle=False, **numbers)) == "-0.40 ± 0.20 [-0.90, 0.10]"
    assert chosen_with(Objective(name="val_base_acc", oracle=False, **numbers)) == "-0.40 ± 0.20 [0.00, 0.10]"


# --- Calibration


def test_a_temperature_undoes_a_planted_one():
    draw = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(5_000, 5, generator=draw)
    labels = torch.multinomial(logits.softmax(1), 1, generator=draw).squeeze(1)
    assert best_temperature(logits, labels) == pytest.approx(1.0, rel=0.06)
    assert best_temperature(3 * logits, labels) == pytest.approx(3.0, rel=0.06)
    assert best_temperature(logits / 4, labels) == pytest.approx(0.25, rel=0.06)


def test_a_calibrated_export_has_its_temperature_in_predictions_and_on_the_card(at_home, exported, tmp_path):
    plain = exported("gcscoop")
    champion = a_champion(at_home, "gcscoop", KINDS["gcscoop"])
    folder = bundle.write(tmp_path / "calibrated", champion, at_home, calibrate=True)
    content = json.loads((folder / "metrics.json").read_text())
    check(content, "metrics.json")
    fit = content["temperature"]
    assert fit["nll"] <= fit["nll_before"] and fit["images"] > 0
    card = (folder / "card.md").read_text()
    assert f"the temperature {fit['value']:.4g}, fitted on {fit['images']} validation images" in card
    assert "Calibration of the prompts of single seeds on test images" in card
    assert "temperature" not in (plain / "card.md").read_text()
    image = at_home.dataset.images / at_home.dataset.test[0].path
    names = at_home.dataset.classes
    before, after = (
        prediction.guesses(prediction.load_export(one), [image], names, top=8)[0] for one in (plain, folder)
    )
    assert [one.name for one in before] == [one.name for one in after]
    assert [one.logit for one in before] == [one.logit for one in after]
    logits = torch.tensor([one.logit for one in after], dtype=torch.float64)
    assert [one.probability for one in after] == pytest.approx((logits / fit["value"]).softmax(0).tolist())
    assert json.loads((plain / "metrics.json").read_text())["digest"] != content["digest"]


def test_without_validation_images_there_is_no_temperature(at_home, tmp_path):
    champion = a_champion(at_home, "zeroshot", {})
    bare = replace(at_home, dataset=replace(at_home.dataset, val=()))
    with pytest.raises(InputError, match="fitted on validation images, and this task has none"):
        bundle.write(tmp_path / "bare", champion, bare, calibrate=True)
    assert not (tmp_path / "bare").exists()
