"""The page of python -m microdoppler.app: what it computes, and the page itself where Gradio is installed."""
import socket
import sys
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from PIL import Image

import generate
from groundwork.errors import InputError
from groundwork.files import read_json
from groundwork.progress import followed_by
from microdoppler.pipeline.generation import Sampling
from microdoppler.pipeline.playground import Compared, Playground, Reference
from microdoppler.pipeline.playground_page import ADDRESS, build, serve
from microdoppler.study.copies import CopyDetector

SAMPLING = Sampling(cond_scale=2.0, sampling_timesteps=3, sampler="ddim", seed=5)


@pytest.fixture
def playground(demo, tmp_path):
    return Playground(demo[0] / "results", tmp_path / "shown", "cpu")


def test_the_newest_checkpoint_comes_first_with_its_own_persons_and_constants(playground):
    checkpoints = playground.checkpoints()
    assert [path.name for path in checkpoints] == ["model-3.pt", "model-2.pt", "model-1.pt"]
    legend, own = playground.own_constants(checkpoints[0])
    config = read_json(checkpoints[0].parent / "config.json")
    assert legend.users == [1, 2, 3] and legend.axes is not None
    assert (own.cond_scale, own.sampling_timesteps) == (config["cond_scale"], config["sampling_timesteps"])


def test_its_folder_is_what_generate_writes(playground, tmp_path):
    """The archive has the same files, with the same pixels, and the same manifest."""
    checkpoint = playground.checkpoints()[0]
    shown = playground.show(checkpoint, [1, 3], 2, SAMPLING, is_compared=False)
    with ZipFile(shown.archive) as archive:
        archive.extractall(tmp_path / "got")
    generate.main(checkpoint=checkpoint, user_id=(1, 3), num_samples=2, output_dir=tmp_path / "expected",
                  sampling=SAMPLING, batch_size=4, device="cpu")
    got, expected = tmp_path / "got" / "synthetic_model-3", tmp_path / "expected"
    assert read_json(got / "manifest.json") == read_json(expected / "manifest.json")
    names = [path.relative_to(expected) for path in sorted(expected.rglob("*.png"))]
    assert names == [path.relative_to(got) for path in sorted(got.rglob("*.png"))] and len(names) == 4
    for name in names:
        assert np.array_equal(Image.open(got / name), Image.open(expected / name))
    assert [row[0] for row in shown.table.rows] == [name.as_posix() for name in names]
    assert len(shown.pictures) == 4 and "4 images of model-3.pt, step 12." in shown.sentences


def test_every_image_is_compared_with_the_training_images_of_its_person(playground, demo):
    """As the copy detector and the evaluation classifier of that person's images say."""
    made = playground.generate(playground.checkpoints()[0], [1, 3], 2, SAMPLING)
    reference = Reference.of(made.generator)
    compared = reference.compare(made)
    assert [path.split("/")[0] for path in compared.nearest] == ["ID_1", "ID_1", "ID_3", "ID_3"]
    training = {path for own in reference.data.split.train_images.values() for path in own}
    assert set(compared.nearest) <= training
    probabilities = reference.evaluator.probabilities(made.images)
    assert compared.recognised == [int(row.argmax()) + 1 for row in probabilities]
    assert torch.equal(compared.confidence, probabilities.amax(dim=1)) and (compared.bar > 0.1).all()


def test_a_copy_of_a_training_image_is_shown_as_one(playground):
    """Were the model to repeat a training window, the page would name that window."""
    made = playground.generate(playground.checkpoints()[0], [2], 1, SAMPLING)
    reference = Reference.of(made.generator)
    reference.compare(made)
    detector: CopyDetector = reference.detectors[1]
    object.__setattr__(made, "images", detector.windows.images[4:5])
    compared: Compared = reference.compare(made)
    assert compared.nearest == [reference.data.split.train_images[2][4]]
    assert compared.correlation[0] > 0.999 and compared.correlation[0] >= compared.bar[0]


def test_without_the_training_images_a_sentence_says_why_there_is_no_comparison(playground, demo, tmp_path):
    moved = tmp_path / "elsewhere"
    playground.latents_cache_folder = moved         # without data_split.json
    shown = playground.show(playground.checkpoints()[0], [1], 1, SAMPLING, is_compared=True)
    assert any(sentence.startswith("Not compared with the training images: ") and str(moved) in sentence
               for sentence in shown.sentences)
    assert list(shown.table.header) == ["image", "person"] and len(shown.pictures) == 1


def test_what_is_wrong_is_said_as_by_generate(playground, tmp_path):
    checkpoint = playground.checkpoints()[0]
    with pytest.raises(InputError, match="no person is chosen"):
        playground.show(checkpoint, [], 1, SAMPLING, is_compared=False)
    with pytest.raises(InputError, match="noise_level is 2.0; expected"):
        playground.show(checkpoint, [1], 1, Sampling(noise_level=2.0), is_compared=False)
    with pytest.raises(InputError, match="train first"):
        Playground(tmp_path, tmp_path / "shown")


def test_work_ends_at_the_next_step_when_the_page_says_so(playground):
    """And the next images are complete again."""
    class Cancelled(Exception):
        pass

    told = []

    def follow(bar):
        told.append((bar.desc, bar.n, bar.total))
        raise Cancelled

    with pytest.raises(Cancelled), followed_by(follow):
        playground.show(playground.checkpoints()[0], [1, 2], 3, SAMPLING, is_compared=False)
    assert told == [("generating", 4, 6)]
    assert len(playground.show(playground.checkpoints()[0], [1, 2], 3, SAMPLING, is_compared=False).pictures) == 6


def test_the_page_needs_nothing_from_outside_and_shows_what_was_computed(playground, tmp_path, monkeypatch):
    """Through the page's own interface, as its buttons use it."""
    pytest.importorskip("gradio")
    from gradio_client import Client
    reached = []
    connect = socket.socket.connect

    def only_here(self, address):
        reached.append(address[0])
        return connect(self, address) if address[0] in ("127.0.0.1", "::1", "localhost") else None

    monkeypatch.setattr(socket.socket, "connect", only_here)
    page = build(playground, tmp_path / "served")
    address = serve(page)
    try:
        assert address.startswith(f"http://{ADDRESS}:") and page.share_url is None
        client = Client(address, verbose=False, download_files=tmp_path / "downloaded")
        checkpoints, persons, guidance, noise_level, sampler, steps, seed = client.predict(api_name="/begin")
        assert [name for name, _ in checkpoints["choices"]] == ["model-3.pt", "model-2.pt", "model-1.pt"]
        assert persons["value"] == [1, 2] and persons["choices"][2] == ["3 user 3", 3]
        assert (guidance["value"], noise_level, sampler, steps, seed) == (1.5, 1.0, "dpmpp_2m", 4, 42)
        checkpoint = checkpoints["choices"][1][1]
        sentences, pictures, table, download = client.predict(
            checkpoint, [2], 2, 1.5, 1.0, "ddim", 3, 7, False, api_name="/generate")
        assert sentences == "2 images of model-2.pt, step 10."
        assert len(pictures) == 2 and [row[1] for row in table["value"]["data"]] == ["user 2", "user 2"]
        with ZipFile(download["value"]) as archive:
            assert sum(name.endswith(".png") for name in archive.namelist()) == 2
        with pytest.raises(Exception, match="no person is chosen"):
            client.predict(checkpoint, [], 2, 1.5, 1.0, "ddim", 3, 7, False, api_name="/generate")
    finally:
        page.close()
    assert set(reached) <= {"127.0.0.1", "::1", "localhost"}


def test_without_gradio_a_message_says_what_to_install(playground, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(InputError, match='pip install "gradio>=6.0"'):
        build(playground, tmp_path / "served")
