"""Disks without locks, disks that several hosts share, Windows, and terminals and editors of all kinds."""
import codecs
import errno
import fcntl
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock
import pytest

from groundwork import command_line, lock
from groundwork.errors import InputError
from groundwork.files import TEMPORARY, atomic_path, read_json, write_text
from groundwork.lock import SOFT_LOCK, sole_writer

ROOT = Path(__file__).parents[2]


def in_child(function):
    """The exit status of a forked process that calls function() without this process's locks."""
    child = os.fork()
    if child == 0:
        lock._held.clear()
        try:
            function()
        except InputError:
            os._exit(2)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def write_to(folder):
    with sole_writer(folder):
        pass


def be_killed_in(folder):
    with sole_writer(folder):
        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("error", [
    OSError(errno.ENOLCK, "No locks available"), OSError(errno.EOPNOTSUPP, "Operation not supported"),
    NotImplementedError("FileSystem does not appear to support flock")])
def test_where_the_disk_has_no_locks_a_file_takes_their_place(tmp_path, monkeypatch, capsys, error):
    def acquire(self, *args, **options):
        raise error
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with sole_writer(tmp_path / "results"):
        assert f"no locks on this disk ({error})" in capsys.readouterr().out
        assert in_child(lambda: write_to(tmp_path / "results")) == 2
    assert not (tmp_path / "results").exists()


def test_what_the_system_says_when_it_has_no_locks_is_no_traceback(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    monkeypatch.setattr(fcntl, "flock", flock)
    assert in_child(lambda: be_killed_in(tmp_path / "results")) == -signal.SIGKILL
    assert (tmp_path / "results" / SOFT_LOCK).exists()
    (tmp_path / "results" / SOFT_LOCK).write_text("4194305\nanother-host\n")       # killed there: nobody can tell
    with pytest.raises(InputError, match=f"if it was killed, delete .*{SOFT_LOCK}"):
        write_to(tmp_path / "results")
    (tmp_path / "results" / SOFT_LOCK).unlink()
    write_to(tmp_path / "results")


def test_a_folder_that_may_not_be_written_to_is_no_disk_without_locks(tmp_path, monkeypatch):
    def acquire(self, *args, **options):
        raise PermissionError(errno.EROFS, "Read-only file system", str(tmp_path))
    monkeypatch.setattr(filelock.FileLock, "acquire", acquire)
    with pytest.raises(PermissionError):
        write_to(tmp_path)


def test_temporary_files_of_another_host_are_not_judged_by_the_processes_of_this_one(tmp_path):
    with atomic_path(tmp_path / "model-1.pt") as temporary:
        temporary.touch()
        host, process, _ = TEMPORARY.fullmatch(temporary.name).groups()
        gone = temporary.name.replace(f"-{process}.", "-4194305.")      # above the highest process id
        left, elsewhere = tmp_path / gone, tmp_path / gone.replace(host, "01234567")
        old = elsewhere.with_name(f".old{elsewhere.name}")
        for path in (left, elsewhere, old):
            path.touch()
        os.utime(old, (time.time() - 2 * 24 * 3600,) * 2)
        write_to(tmp_path)
        assert [path.exists() for path in (temporary, elsewhere, left, old)] == [True, True, False, False]


@pytest.mark.parametrize("path", ["file", "file/below", "file/below/it"])
def test_a_file_where_a_folder_is_to_be_written_is_named(tmp_path, path):
    (tmp_path / "file").touch()
    for write in (write_to, lambda folder: write_text(folder / "x.txt", "x")):
        with pytest.raises(InputError, match=f"^{tmp_path / 'file'} is a file, but a folder is to be written there"):
            write(tmp_path / path)


@pytest.mark.parametrize("encode", [
    lambda text: codecs.BOM_UTF8 + text.encode(), lambda text: text.encode("utf-16"), lambda text: text.encode()])
def test_json_is_read_as_editors_write_it(tmp_path, encode):
    (tmp_path / "names.json").write_bytes(encode('{"ID_1": "安娜"}'))
    assert read_json(tmp_path / "names.json") == {"ID_1": "安娜"}


ON_WINDOWS = """
import sys
from groundwork.memory import peak_memory
from microdoppler import generate, train
from train_latent_cfg import Config
import json
config = Config(**json.loads(sys.argv[1]))
assert train(config) and peak_memory() > 2 ** 20
generate(checkpoint=config.results_folder, user_id=1, num_samples=2, output_dir=sys.argv[2])
"""


def test_without_what_windows_lacks_it_trains_and_generates(demo, tmp_path):
    """On Linux, with the functions, modules and signals removed, and files in use that refuse to be renamed."""
    folder, _ = demo
    constants = json.loads((folder / "results" / "config.json").read_text()) | {
        "results_folder": str(tmp_path / "results"), "latents_cache_folder": str(tmp_path / "latents"),
        "train_num_steps": 5, "log_with": "none"}
    (tmp_path / "script.py").write_text(ON_WINDOWS)
    done = subprocess.run([sys.executable, Path(__file__).with_name("as_on_windows.py"), tmp_path / "script.py",
                           json.dumps(constants), tmp_path / "images"],
                          env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "images" / "ID_1").glob("*.png"))) == 2


@pytest.mark.parametrize("options, status", [(["--help"], 0), (["--num_users", "-1"], 2)])
def test_a_terminal_without_unicode_gets_question_marks(options, status):
    done = subprocess.run([sys.executable, ROOT / "train_latent_cfg.py", *options], capture_output=True, text=True,
                          env={**os.environ, "PYTHONIOENCODING": "ascii", "LANG": "C"})
    assert done.returncode == status, done.stderr
    assert "?" in done.stdout + done.stderr and "Traceback" not in done.stderr


def test_a_command_to_show_is_quoted_and_is_right_where_one_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert command_line.command("generate.py", "--checkpoint", Path("my results")) == (
        "python generate.py --checkpoint 'my results'")
    for folder in (ROOT / "tests", tmp_path):
        monkeypatch.chdir(folder)
        _, script, _ = shlex.split(command_line.command("generate.py", "--help"))
        assert Path(script).samefile(ROOT / "generate.py")
    monkeypatch.setattr(command_line, "ROOT", tmp_path)       # installed, without scripts
    assert command_line.command("generate.py") == "python generate.py"
