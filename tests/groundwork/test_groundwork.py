"""Files and command lines."""
import runpy
import sys
import tempfile
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import pytest
import torch

from groundwork.command_line import run
from groundwork.errors import InputError
from groundwork.files import atomic_path, digest_tensors, load_tensors, read_json, save_tensors, write_json


def test_a_full_disk_is_named_and_what_was_there_stays():
    """/dev/full takes no byte; the temporary file is made a link to it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "value.json"
        write_json(path, {"a": 1})
        with pytest.raises(OSError, match="value.json"):
            with atomic_path(path) as temporary:
                temporary.symlink_to("/dev/full")
                temporary.write_text("x" * 100000)
        with pytest.raises(InputError, match="disk full"):
            with mock.patch("groundwork.files.atomic_path", lambda path: nullcontext("/dev/full")):
                save_tensors(path, {"a": torch.zeros(100000)})
        assert read_json(path) == {"a": 1} and len(list(Path(folder).iterdir())) == 1


def test_a_file_is_whole_or_as_it_was(tmp_path):
    path = tmp_path / "value.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyboardInterrupt):
        with atomic_path(path) as temporary:
            temporary.write_text("half")
            assert temporary.suffix == ".json" and temporary.parent == tmp_path
            raise KeyboardInterrupt
    assert read_json(path) == {"a": 1} and [file.name for file in tmp_path.iterdir()] == ["value.json"]


def test_what_json_has_no_words_for_becomes_null(tmp_path):
    """json.loads takes NaN, other readers of JSON do not."""
    write_json(tmp_path / "x.json", {"a": [float("nan"), 1.5, True], "b": ({"c": float("-inf")}, Path("d"))})
    text = "".join((tmp_path / "x.json").read_text().split())
    assert text == '{"a":[null,1.5,true],"b":[{"c":null},"d"]}'


def test_a_digest_depends_on_names_and_values_and_is_that_of_earlier_versions():
    tensors = {"b": torch.arange(6).float().view(2, 3), "a": torch.tensor(1.5)}
    stored = "da107f80497f7e535c398e22bc922e6404995efbe218ce198ae5c85a39f3d26e"
    assert digest_tensors(tensors) == digest_tensors(dict(reversed(tensors.items()))) == stored
    others = [tensors | {"a": torch.tensor(1.0)}, {"c": tensors["b"], "a": tensors["a"]},
              *({name: value.to(dtype) for name, value in tensors.items()} for dtype in (torch.bfloat16, torch.half))]
    assert len({stored, *map(digest_tensors, others)}) == 5


def test_json_that_is_none_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    for name in ("x.json", "absent.json"):
        with pytest.raises(InputError, match=name):
            read_json(tmp_path / name)


@dataclass(frozen=True)
class Constants:
    steps: int = 1  # how many
    amp: bool = True  # mixed precision


def command(monkeypatch, *arguments):
    seen = []
    def main(config: Constants, *, resume: str | None = None):
        seen.append((config, resume))
    monkeypatch.setattr(sys, "argv", ["script", *arguments])
    run(main, {"full": Constants(), "small": Constants(steps=9)}, "full")
    return seen[0]


def test_options_override_the_presets_constants_with_underscores_or_hyphens(monkeypatch):
    assert command(monkeypatch) == (Constants(), None)
    assert command(monkeypatch, "--steps", "3", "--no_amp", "--resume", "latest") == (Constants(3, False), "latest")
    assert command(monkeypatch, "--no-amp") == (Constants(1, False), None)


@pytest.mark.parametrize("module", ["microdoppler.split", "microdoppler.simulate", "vae.train"])
def test_help_calls_a_module_as_it_is_started(monkeypatch, capsys, module):
    """Whether it is a file or a package. Python puts the file's path into sys.argv."""
    monkeypatch.setattr(sys, "argv", [module, "--help"])
    monkeypatch.delitem(sys.modules, module, raising=False)     # otherwise runpy warns that it was imported before
    with pytest.raises(SystemExit, match="0"):
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    assert capsys.readouterr().out.startswith(f"usage: python -m {module} [-h]")


def test_an_interrupt_exits_with_130_and_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script"])
    def interrupted():
        raise KeyboardInterrupt
    with pytest.raises(SystemExit) as stopped:
        run(interrupted)
    assert stopped.value.code == 130
    with pytest.raises(ZeroDivisionError):
        run(lambda: 1 / 0)


def test_an_error_of_the_user_is_one_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["script"])
    def refuse():
        raise InputError("found a\n  b")
    with pytest.raises(SystemExit) as stopped:
        run(refuse)
    assert stopped.value.code == 2 and capsys.readouterr().err == "error: found a b\n"


def test_saving_leaves_no_temporary_file_and_keeps_the_old_one_when_it_fails(tmp_path):
    path = tmp_path / "model-1.pt"
    save_tensors(path, {"step": 1})
    with pytest.raises(Exception):
        save_tensors(path, {"step": lambda: 0})
    assert load_tensors(path) == {"step": 1} and [file.name for file in tmp_path.iterdir()] == ["model-1.pt"]
