"""--config FILE: the defaults of a command's options come from a file of constants."""
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

from groundwork.command_line import run


@dataclass(frozen=True)
class Constants:
    preset: str = "full"  # full or small
    steps: int = 1  # how many
    amp: bool = True  # mixed precision
    data_path: Path = Path("data")  # where the images are
    names: Path | None = None  # names of users
    dim_mults: tuple[int, ...] = (1, 2)  # channels


@dataclass(frozen=True)
class Sampling:
    scale: float | None = None  # guidance
    interval: tuple[float, float] | None = None  # where


PRESETS = {"full": Constants(), "small": Constants("small", steps=9)}


@pytest.fixture
def call(tmp_path, monkeypatch):
    """Runs a main with a config file and options, and returns its arguments."""
    def call(main, constants, *options, presets=None, derived=None):
        file = tmp_path / "config.json"
        file.write_text(constants if isinstance(constants, str) else json.dumps(constants), encoding="utf-8")
        monkeypatch.setattr(sys, "argv", ["script", "--config", str(file), *options])
        return run(main, presets, "full" if presets else None, derived)
    return call


def train(config: Constants, *, resume: str | None = None):
    """Train.

    Args:
        resume: from where
    """
    return config, resume


def split(data_path: Path, output: Path = Path("split.json"), *, seed: int = 0, folders: tuple[Path, ...] = (),
          channels: Literal[3, 1] = 3, sampling: Sampling = Sampling(), num_samples: int = 16):
    return data_path, output, seed, folders, channels, sampling, num_samples


def test_the_file_gives_all_constants_and_options_change_them(call):
    found = {"steps": 5, "amp": False, "data_path": "x", "names": None, "dim_mults": [1, 2, 4], "resume": "latest"}
    expected = Constants(steps=5, amp=False, data_path=Path("x"), dim_mults=(1, 2, 4))
    assert call(train, found, presets=PRESETS) == (expected, "latest")
    assert call(train, found, "--steps", "7", "--amp", "--resume", "3", presets=PRESETS) == (
        Constants(steps=7, data_path=Path("x"), dim_mults=(1, 2, 4)), "3")


def test_what_the_file_lacks_is_of_its_preset(call):
    assert call(train, {"preset": "small", "amp": False}, presets=PRESETS)[0] == Constants("small", 9, False)
    assert call(train, {"amp": False}, presets=PRESETS)[0] == Constants(amp=False)
    assert call(train, {"amp": False}, "--preset", "small", presets=PRESETS)[0] == Constants("small", 9, False)


def test_a_folder_stands_for_its_config_file_and_a_byte_order_mark_is_read(call, tmp_path, monkeypatch):
    assert call(train, "\ufeff" + '{"steps": 5}', presets=PRESETS)[0] == Constants(steps=5)
    monkeypatch.setattr(sys, "argv", ["script", f"--config={tmp_path}"])
    assert run(train, PRESETS, "full")[0] == Constants(steps=5)


def test_a_command_without_all_constants_takes_those_that_it_has_options_for(call, capsys):
    found = {"data_path": "x", "seed": 3, "steps": 5, "folders": ["a", "b"], "channels": 1, "scale": 2.0,
             "interval": [0.0, 0.5]}
    assert call(split, found) == (Path("x"), Path("split.json"), 3, (Path("a"), Path("b")), 1,
                                  Sampling(2.0, (0.0, 0.5)), 16)
    assert call(split, found, "--seed", "4", "--scale", "1", "--data_path", "y")[:3] == (
        Path("y"), Path("split.json"), 4)
    assert capsys.readouterr() == ("", "")


def test_options_follow_from_constants_of_other_names(call):
    derived = {"output": "{cache}/split.json", "num_samples": None}
    found = {"data_path": "x", "cache": "c", "num_samples": 4}
    assert call(split, found, derived=derived)[1] == Path("c/split.json")
    assert call(split, found, derived=derived)[-1] == 16
    assert call(split, {**found, "output": "o"}, derived=derived)[1] == Path("o")
    assert call(split, {"data_path": "x"}, derived=derived)[1] == Path("split.json")


def test_constants_of_another_version_are_named_and_ignored(call, capsys):
    assert call(train, {"steps": 5, "later": 1, "odd\x1b[2J": 2}, presets=PRESETS)[0] == Constants(steps=5)
    note, = capsys.readouterr().out.splitlines()
    assert note.startswith("note: ") and note.endswith(r"ignored: later, odd\x1b[2J")


@pytest.mark.parametrize("constants, options, message", [
    ({"steps": "5"}, [], "steps: Input should be a valid integer"),
    ({"dim_mults": [1, "2"]}, [], "dim_mults: Input should be a valid integer"),
    ({"names": 5}, [], "names: Input should be an instance of str"),
    ({"later": 1}, [], "no value for any option"),
    ("[]", [], "holds a list; expected constants by name"),
    ("{", [], "cannot be read as JSON"),
    ({"preset": "huge"}, [], "preset huge is unknown; expected one of full, small"),
    ({"preset": "full"}, ["--preset", "small"], "leave --preset out")])
def test_a_file_that_cannot_be_used_is_refused_in_one_line(call, capsys, constants, options, message):
    with pytest.raises(SystemExit) as stopped:
        call(train, constants, *options, presets=PRESETS)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.startswith("error: ") and message in error and error.count("\n") == 1


def test_help_tells_of_it_and_shows_the_defaults_of_the_file(call, capsys):
    with pytest.raises(SystemExit) as stopped:
        call(train, {"steps": 77}, "--help", presets=PRESETS)
    shown = capsys.readouterr().out
    assert stopped.value.code == 0 and "--config FILE" in shown and "77" in shown and "from where" in shown
    assert shown.count("Train.") == 1 and "Args" not in shown
