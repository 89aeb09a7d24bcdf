"""What trackers are told, read back from TensorBoard's own files, and what becomes of those that fail."""
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from PIL import Image

from groundwork.processes import init_distributed
from groundwork.errors import InputError
from groundwork.limits import to_plain
from microdoppler.pipeline import tracking
from microdoppler.pipeline.tracking import Trackers, choose_trackers
from train_latent_cfg import PRESETS

CONFIG = to_plain(PRESETS["cpu-minutes"])


class Told(GeneralTracker):
    """Keeps what it is told, or fails at it."""
    name, requires_logging_directory = "told", False

    def __init__(self, fails_to=""):
        super().__init__()
        self.fails_to, self.lines, self.is_finished = fails_to, [], False

    @property
    def tracker(self):
        return self

    def start(self):
        if self.fails_to == "start":
            raise OSError("nobody there\nat all")

    def store_init_configuration(self, values):
        self.config = values

    def log(self, values, step=None):
        if self.fails_to == "log":
            raise ConnectionError("the line is cut")
        self.lines.append((step, values))

    def finish(self):
        self.is_finished = True


def start(folder: Path, *log_with, step=0, **config) -> Trackers:
    init_distributed(torch.device("cpu"))
    accelerator = Accelerator(cpu=True, log_with=list(log_with), project_dir=folder)
    return Trackers(accelerator, {**CONFIG, **config}, step=step, folder=folder)


def line(step, **other):
    return {"step": step, "loss": 1 / step, "lr": 1e-4, "wall_time": 5.0, **other}


def test_tensorboard_is_what_there_is_where_it_is_installed_and_nothing_is_said_where_not(monkeypatch, capsys):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb", "tensorboard"])
    assert choose_trackers("auto") == ["tensorboard"] and choose_trackers("none") == []
    assert choose_trackers("all") == ["tensorboard", "wandb"] and choose_trackers("wandb") == ["wandb"]
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    assert choose_trackers("auto") == [] and capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["mlflow", "tensorbored"])
def test_a_tracker_that_is_not_there_is_refused_with_those_that_are(monkeypatch, name):
    monkeypatch.setattr(tracking, "get_available_trackers", lambda: ["wandb"])
    with pytest.raises(InputError, match=f"log_with is {name}.*installed: wandb; accelerate knows .*mlflow.*auto, all"):
        choose_trackers(name)


def test_tensorboard_gets_scalars_pictures_and_histograms_and_goes_on_after_resuming(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "sample-1.png")
    latents = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    first = start(tmp_path / "trackers", "tensorboard")
    first.show_latents(latents, "training", 0)
    for step in (5, 10, 15):
        first.log(line(step), steps_per_second=2.5)
    first.log({"step": 10, "milestone": 1, "class_gain": 0.25})
    first.show(tmp_path / "sample-1.png", 10)       # killed here, without a close
    second = start(tmp_path / "trackers", "tensorboard", step=10)
    second.log(line(20, loss=7.0), steps_per_second=2.5)
    second.close()
    (folder,) = (path for path in (tmp_path / "trackers").iterdir() if path.is_dir())
    found = event_accumulator.EventAccumulator(str(folder))
    found.Reload()
    losses = [(event.step, event.value) for event in found.Scalars("training/loss")]
    assert losses == [(5, pytest.approx(0.2)), (10, pytest.approx(0.1)), (20, 7.0)]     # 15 came after the checkpoint
    assert {event.value for event in found.Scalars("training/steps_per_second")} == {2.5}
    assert [(event.step, event.value) for event in found.Scalars("milestone/class_gain")] == [(10, 0.25)]
    assert not any("wall_time" in tag or tag.endswith("step") for tag in found.Tags()["scalars"])
    (image,) = found.Images("samples")
    assert image.step == 10 and (image.width, image.height) == (30, 20)
    channels = [found.Histograms(f"latents_channel_{channel}/training") for channel in (0, 1)]
    assert [event.step for own in channels for event in own] == [0, 0]
    assert channels[1][0].histogram_value.num == 8 * 4 * 4
    assert channels[1][0].histogram_value.max == pytest.approx(latents[:, 1].max().item())


def test_the_settings_are_told_once(tmp_path):
    told = Told()
    start(tmp_path, told)
    assert told.config["dim"] == CONFIG["dim"] and told.config["dim_mults"] == str(CONFIG["dim_mults"])
    again = Told()
    start(tmp_path, again, step=10)
    assert not hasattr(again, "config")


def test_a_run_keeps_its_name_when_resumed_and_a_new_one_gets_another(tmp_path):
    name = tracking.run_id(tmp_path, is_new=True)
    assert tracking.run_id(tmp_path, is_new=False) == name != tracking.run_id(tmp_path, is_new=True)


def test_a_tracker_that_fails_while_training_goes_on_is_warned_of_once_and_the_others_are_told(tmp_path, capsys):
    broken, whole = Told(fails_to="log"), Told()
    trackers = start(tmp_path, broken, whole)
    for step in (5, 10):
        trackers.log(line(step))
    trackers.close()
    warning = "warning: told failed (ConnectionError: the line is cut); training goes on without it\n"
    assert capsys.readouterr().out == warning
    assert [step for step, _ in whole.lines] == [5, 10] and whole.is_finished


def test_a_tracker_that_cannot_start_is_an_error_if_it_was_asked_for(tmp_path, capsys):
    with pytest.raises(InputError, match="(?s)log_with told: OSError: nobody there.*--log_with none"):
        start(tmp_path, Told(fails_to="start"), log_with="told")
    trackers = start(tmp_path, Told(fails_to="start"), log_with="auto")
    assert "warning: log_with auto: OSError: nobody there" in capsys.readouterr().out
    trackers.log(line(5))
    trackers.close()
