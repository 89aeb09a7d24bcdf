"""Fixtures for all tests: a tiny finished demo with trained files, and the device that tests compute on."""
import inspect
import os
import runpy
import socket
import sys
import tempfile
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from PIL import Image
from toys import RGB

ROOT = Path(__file__).parent.parent
TINY = ["--num_users", "3", "--images_per_user_train", "10", "--dim", "16", "--train_num_steps", "12",
        "--save_and_sample_every", "5", "--log_every", "3", "--num_samples", "4", "--classifier_epochs", "1",
        "--classifier_image_size", "32", "--classifier_batch_size", "8", "--classifier_seeds", "2",
        "--classifier", "shufflenet_v2_x0_5",       # a quarter of ResNet18's time
        "--sampling_timesteps", "4", "--no_amp"]
DEMO_SIZE = ["--images_per_user", "20", "--samples_per_user", "3", "--vae_num_steps", "10", "--vae_ch", "8"]
CALL = """
import sys
sys.path[:0] = {folders!r}
from {file} import {function}
{function}(*{arguments!r})
"""


# Tests must not depend on the machine. They therefore compute in float32 on the CPU, in every process that imports this
# file, and in every process that they start. Tests about bfloat16 use the fixture native_bfloat16; tests about CUDA are
# marked cuda.
NATIVE_CAPABILITIES = getattr(torch.cpu, "get_capabilities", dict)()
torch.cpu.get_capabilities = dict
NATIVE_CUDA = {name: getattr(torch.cuda, name) for name in ("is_available", "device_count")}
VISIBLE = {name: value for name, value in os.environ.items() if name == "CUDA_VISIBLE_DEVICES"}
HAS_CUDA = torch.cuda.is_available()        # this call also finds the devices: hiding them later does not lose them
torch.cuda.is_available, torch.cuda.device_count = lambda: False, lambda: 0

PROCESSES = get_context("forkserver")       # it imports PyTorch once, which takes longer than most tests
PROCESSES.set_forkserver_preload(["demo"])


def run_script(*arguments, expect=0, processes=1):
    """Run a script of the repository (or "-m", module) in a process of its own. Returns its standard output and its
    standard error as text; expect: the exit status that is asserted. processes: so many of them, told of each other as
    a launcher tells them, on a thread each."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("localhost", 0)) as free:
        group = {} if processes == 1 else {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "OMP_NUM_THREADS": 1,
                                           "MASTER_ADDR": "localhost", "MASTER_PORT": free.getsockname()[1]}
        free.close()
        started = [PROCESSES.Process(target=_run_in_child, args=(list(map(str, arguments)), folder, rank, group))
                   for rank in range(processes)]
        for process in started:
            process.start()
        for process in started:
            process.join()
        out, err = ("".join(Path(folder, f"{name}{rank}").read_text() for rank in range(processes))
                    for name in ("out", "err"))
    assert {process.exitcode for process in started} == {expect}, out + err
    return out, err


def _run_in_child(arguments, folder, rank, group):
    """Become the script in a child process; its output goes to the files "out<rank>" and "err<rank>" in `folder`.
    group: environment variables of processes that work together; none for a single one."""
    for number, name in ((1, f"out{rank}"), (2, f"err{rank}")):
        os.dup2(os.open(Path(folder, name), os.O_WRONLY | os.O_CREAT), number)
    if group:
        os.environ |= {name: str(value) for name, value in {**group, "RANK": rank, "LOCAL_RANK": rank}.items()}
        torch.set_num_threads(1)
    os.chdir(ROOT)
    is_module = arguments[0] == "-m"
    sys.argv = arguments[is_module:]
    sys.modules.pop(sys.argv[0], None)      # otherwise runpy warns that it was imported before
    (runpy.run_module if is_module else runpy.run_path)(sys.argv[0], run_name="__main__")


@pytest.fixture(scope="session", autouse=True)
def hidden_cuda():
    """Hides the CUDA devices from the processes that tests start. If it was done above, pytest-xdist's workers, too,
    would not see them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        yield


@pytest.fixture(autouse=True)
def native_cuda(request, monkeypatch):
    """Lets tests marked cuda see the CUDA devices; skips them where there are none."""
    if not request.node.get_closest_marker("cuda"):
        return
    if not HAS_CUDA:
        pytest.skip("no CUDA device")
    for name, function in NATIVE_CUDA.items():
        monkeypatch.setattr(torch.cuda, name, function)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    for name, value in VISIBLE.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def native_bfloat16(monkeypatch):
    """Lets half_precision see the bfloat16 instructions of this CPU; skips the test when it has none."""
    if not (NATIVE_CAPABILITIES.get("avx512_bf16") or NATIVE_CAPABILITIES.get("amx_bf16")):
        pytest.skip("this CPU has no bfloat16 instructions")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: NATIVE_CAPABILITIES)


@pytest.fixture(scope="session")
def script():
    """The function run_script."""
    return run_script


@pytest.fixture
def call_in_two(script, tmp_path):
    """call_in_two(function, *arguments): call a function of a test file in two processes, with arguments as text.
    expect: the exit status that is asserted."""
    def in_processes(function, *arguments, expect=0):
        program, file = tmp_path / "program.py", Path(inspect.getfile(function))
        program.write_text(CALL.format(folders=[str(file.parent), str(file.parents[1])], file=file.stem,
                                       function=function.__name__, arguments=[str(argument) for argument in arguments]))
        script(program, processes=2, expect=expect)
    return in_processes


@pytest.fixture
def one_thread():
    """As many as each of several processes has; another number changes results by rounding."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """(folder, standard output) of a finished run of demo.py at tiny size, made once for all tests."""
    folder = tmp_path_factory.mktemp("whole") / "demo"
    out, _ = run_script("demo.py", "--output_dir", folder, *TINY, *DEMO_SIZE)
    return folder, out


@pytest.fixture
def paths(demo, tmp_path):
    """Command-line options for the demo's data, split, latents and VAE, and for a new results folder."""
    folder, _ = demo
    return ["--preset", "cpu-minutes", *TINY, "--data_path", str(folder / "data"),
            "--vae_path", str(folder / "kl_vae_best.pt"), "--results_folder", str(tmp_path / "results"),
            "--latents_cache_folder", str(folder / "latents_cache")]


@pytest.fixture
def data(tmp_path):
    """A data folder with 50 valid images of user 1."""
    for i in range(1, 51):
        (tmp_path / "data" / "ID_1").mkdir(parents=True, exist_ok=True)
        Image.fromarray(RGB).save(tmp_path / "data" / "ID_1" / f"Doppler{i}.png")
    return tmp_path / "data"
