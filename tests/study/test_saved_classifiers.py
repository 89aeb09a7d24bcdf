"""The best network of each arm is kept, predicts on folders as it did in the study, and runs as ONNX."""
import csv
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn
from toys import toy_set

from groundwork.errors import InputError
from groundwork.files import save_safetensors
from groundwork.preparation import Preparation
from microdoppler.study.arms import Arm
from microdoppler.study.best_networks import BestNetworks, file_names
from microdoppler.study.classifier import build_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import plan_network
from microdoppler.study.onnx_command import main as to_onnx
from microdoppler.study.predict_command import main as predict
from microdoppler.study.recipe import Recipe
from microdoppler.study.runs import Fold, run_study
from microdoppler.study.trained_classifier import Classes, TrainedClassifier

CPU = torch.device("cpu")
CLASSES = Classes(("ID_1", "ID_7"), ("Anna", "Ben"), preparation=Preparation("pad"))
TEST = toy_set(4, seed=1)


def fold(arms, number=0, validation=None):
    paths = [str(i) for i in range(len(TEST.images))]
    return Fold(number, arms, TEST, paths, paths, {}, {}, [1, 7], validation)


def study(folder, folds, seeds=(0, 1), keep=CLASSES, epochs=1):
    recipe = Recipe(epochs=epochs, batch_size=4, lr=1e-3, network="squeezenet1_1")
    return run_study(folds, num_classes=2, seeds=seeds, recipe=recipe, device=CPU, folder=folder, keep=keep)


REAL = toy_set(6, seed=0)
ARMS = [Arm(KINDS["real only"], REAL), Arm(KINDS["real + synthetic"], REAL, toy_set(2, seed=3), "a/b")]


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """(the runs of a study, the folder of its networks)."""
    folder = tmp_path_factory.mktemp("study")
    return study(folder, [fold(ARMS)]), folder / "models"


def index(folder):
    return json.loads((folder / "models.json").read_text())


def test_without_validation_images_the_first_run_of_each_arm_is_kept_and_predicts_the_same(kept):
    runs, folder = kept
    assert {path.name for path in folder.iterdir()} == {"models.json", "real_only.safetensors",
                                                        "real+synthetic_a_b.safetensors"}
    for arm, about in index(folder).items():
        classifier = TrainedClassifier.load(folder / about["file"])
        run = next(run for run in runs if (run.arm.name, run.seed) == (arm, 0))
        np.testing.assert_allclose(classifier.predict(TEST.images), run.probabilities, atol=1e-6)
        assert classifier.classes == CLASSES and classifier.facts["arm"] == arm and classifier.facts["seed"] == 0
        assert classifier.facts["chosen_by"] == "first fold and seed" == about["chosen_by"]
        assert about["test_accuracy"] == run.correct.mean()


class BrighterAbove(nn.Module):
    """It knows the classes of toy_set."""

    def __init__(self):
        super().__init__()
        self.contrast = nn.Parameter(torch.ones(()))

    def forward(self, images):
        above = self.contrast * (images[:, :, :16].mean(dim=(1, 2, 3)) - images[:, :, 16:].mean(dim=(1, 2, 3)))
        return torch.stack([above, -above], dim=1)


def test_with_validation_images_the_best_on_them_is_kept(tmp_path, monkeypatch):
    """The labels of the one fold's validation images are wrong, so that its networks are the worst on them."""
    monkeypatch.setattr("microdoppler.study.runs.train_classifier", lambda *_, **__: BrighterAbove())
    right = toy_set(4, seed=5)
    wrong = replace(right, labels=1 - right.labels)
    study(tmp_path, [fold(ARMS[:1], 0, wrong), fold([Arm(KINDS["real only"], toy_set(6, seed=9))], 1, right)])
    about = index(tmp_path / "models")["real only"]
    assert about["fold"] == 1 and about["validation_accuracy"] == about["test_accuracy"] == 1
    assert about["chosen_by"] == "validation accuracy" and len(about["chosen_among"]) == 4


def test_the_order_in_which_equal_networks_are_done_does_not_count(tmp_path):
    """Two processes train them, so either may be done first."""
    found = []
    for seeds in ((0, 1), (1, 0)):
        best = BestNetworks(tmp_path / f"{seeds[0]} first", plan_network("squeezenet1_1", 32), CLASSES,
                            {"real only": ["key 0", "key 1"]})
        for seed in seeds:
            best.offer("real only", f"key {seed}", BrighterAbove(), TEST, {"seed": seed, "fold": 0})
        found.append(index(best.folder)["real only"])
    assert found[0] == found[1] and found[0]["seed"] == 0 and found[0]["chosen_among"] == ["key 0", "key 1"]


def test_only_networks_that_were_not_kept_are_trained_again(tmp_path, monkeypatch, capsys):
    trained = []

    def counted(*args, **options):
        trained.append(options["seed"])
        return build_classifier(options["network"], 2, options["seed"]).eval()
    monkeypatch.setattr("microdoppler.study.runs.train_classifier", counted)
    study(tmp_path, [fold(ARMS)], keep=None)
    assert len(trained) == 4 and not (tmp_path / "models").exists()
    study(tmp_path, [fold(ARMS)])
    assert trained[4:] == [0, 0] and "their networks were not kept: 2" in capsys.readouterr().out
    study(tmp_path, [fold(ARMS)])
    study(tmp_path, [fold(ARMS)], seeds=(0, 1, 2))
    assert trained[6:] == [2, 2]
    study(tmp_path, [fold(ARMS)], epochs=2)          # other networks: none of the kept ones is of this study
    assert len(trained) == 12 and index(tmp_path / "models")["real only"]["seed"] == 0
    (tmp_path / "models" / "real_only.safetensors").unlink()
    (tmp_path / "models" / "models.json").write_text("[")
    study(tmp_path, [fold(ARMS)], epochs=2)
    assert len(trained) == 14


def test_files_of_arms_whose_names_look_alike_are_told_apart():
    names = file_names(["real only", "real + synthetic: a/b", "real + synthetic: a b"])
    assert len(set(names.values())) == 3 and names["real only"] == "real_only.safetensors"


@pytest.fixture
def folder(tmp_path):
    """Images in folders ID_1 (dark, then bright: label 0), id_7, of a stranger, and none."""
    for path, images in (("ID_1", TEST.images[0::2]), ("id_7", TEST.images[1::2]), ("guest", TEST.images[:2]),
                         ("", TEST.images[:1])):
        (tmp_path / "images" / path).mkdir(parents=True, exist_ok=True)
        for i, image in enumerate(images):
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "images" / path / f"{i}.png")
    return tmp_path / "images"


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_predicted_with_a_line_per_user_and_a_row_per_image(kept, folder, tmp_path, capsys):
    runs, models = kept
    predict(models / "real_only.safetensors", folder, output=tmp_path / "out" / "p.csv")
    rows, printed = {row["path"]: row for row in rows_of(tmp_path / "out" / "p.csv")}, capsys.readouterr().out
    assert len(rows) == 11
    expected = runs[0].probabilities
    for i in range(4):
        for path, user, row in ((f"ID_1/{i}.png", "ID_1", expected[2 * i]), (f"id_7/{i}.png", "ID_7",
                                                                            expected[2 * i + 1])):
            found = rows[path]
            assert found["user"] == user and found["predicted"] == CLASSES.folders[row.argmax()]
            assert [float(found[f"probability_{name}"]) for name in CLASSES.folders] == pytest.approx(row, abs=1e-5)
            assert float(found["confidence"]) == pytest.approx(row.max(), abs=1e-5)
    assert {rows[name]["user"] for name in ("0.png", "guest/0.png", "guest/1.png")} == {""}
    right = sum(row["user"] == row["predicted"] for row in rows.values())
    assert f"accuracy: {100 * right / 8:.1f} % of 8 images of known users" in printed
    assert [line.split()[:2] for line in printed.splitlines() if line.startswith(("Anna ", "Ben "))][:2] == [
        ["Anna", "4"], ["Ben", "4"]]
    assert "3 images lie in no folder of a user of the classifier" in printed


def test_the_folder_of_one_user_is_scored_as_his(kept, folder, tmp_path, capsys):
    predict(kept[1] / "real_only.safetensors", folder / "ID_1", output=tmp_path / "p.csv")
    assert {row["user"] for row in rows_of(tmp_path / "p.csv")} == {"ID_1"}


def test_files_are_prepared_as_the_data_set_was_but_synthetic_images_are_as_they_are(kept, folder, tmp_path):
    """The data set's images were padded to squares: a wide image gets black borders, in a synthetic set it does not."""
    model, wide = kept[1] / "real_only.safetensors", tmp_path / "wide" / "ID_1"
    wide.mkdir(parents=True)
    Image.fromarray(np.tile(TEST.images[0].permute(1, 2, 0).numpy(), (1, 2, 1))).save(wide / "1.png")
    found = []
    for name in ("real", "synthetic"):
        predict(model, wide.parent, output=tmp_path / "p.csv")
        found.append(rows_of(tmp_path / "p.csv")[0]["probability_ID_1"])
        (wide.parent / "manifest.json").write_text("{}")
    assert found[0] != found[1]


def test_bad_input_is_named(kept, folder, tmp_path):
    model = kept[1] / "real_only.safetensors"
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.png").write_bytes(b"\x89PNG half")
    save_safetensors(tmp_path / "vae.safetensors", {"x": torch.zeros(1)}, {"kind": "vae"})
    TrainedClassifier(nn.Linear(2, 2), plan_network("resnet18", 32), CLASSES).save(tmp_path / "odd.safetensors")
    for arguments, message in (
            ((tmp_path / "none.safetensors", folder), "none.safetensors does not exist"),
            ((tmp_path / "vae.safetensors", folder), "vae.safetensors is no classifier"),
            ((tmp_path / "odd.safetensors", folder), "odd.safetensors cannot be used"),
            ((model, tmp_path / "nowhere"), "nowhere is no folder"), ((model, tmp_path / "empty"), "holds no image"),
            ((model, tmp_path / "broken"), "1 of 1 images")):
        with pytest.raises(InputError, match=message):
            predict(*arguments, output=tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("name, channels", [("resnet18", 3), ("squeezenet1_1", 1)])
def test_onnx_computes_the_same_for_any_number_of_images(tmp_path, name, channels, capsys):
    network = plan_network(name, 32)
    classifier = TrainedClassifier(build_classifier(network, 2, seed=0).eval(), network,
                                   replace(CLASSES, channels=channels), {"arm": "real only"})
    classifier.save(tmp_path / "m.safetensors")
    session = onnxruntime.InferenceSession(to_onnx(tmp_path / "m.safetensors"))
    for count in (1, 5):
        images = torch.randint(0, 256, (count, channels, 32, 32), dtype=torch.uint8)
        found = session.run(None, {"images": images.permute(0, 2, 3, 1).numpy()})[0]
        np.testing.assert_allclose(found, classifier.predict(images), atol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert json.loads(about["folders"]) == ["ID_1", "ID_7"] and json.loads(about["names"]) == ["Anna", "Ben"]
    assert json.loads(about["preparation"])["fit"] == "pad" and about["network"].startswith(name)
    assert "images (batch, 32, 32," in capsys.readouterr().out


def test_without_onnx_it_is_said_what_to_install(kept):
    """In a Python that cannot find the package, as where it is not installed."""
    code = ("import sys; sys.modules['onnxscript'] = None\n"
            "from groundwork.command_line import run\nfrom microdoppler.study.onnx_command import main\nrun(main)")
    done = subprocess.run([sys.executable, "-c", code, "--model", kept[1] / "real_only.safetensors"],
                          capture_output=True, text=True)
    assert done.returncode == 2 and "pip install onnx onnxscript" in done.stderr
