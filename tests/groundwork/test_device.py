"""Which device is chosen, what is said where PyTorch has no kernels for it, and the line that tells what computes."""
import os
import subprocess
import sys
from functools import lru_cache
from types import SimpleNamespace

import pytest
import torch

from groundwork import device as device_module
from groundwork.command_line import run
from groundwork.device import (can_convolve, choose_device, convolution_format, convolve_once, describe_work,
                               half_precision, has_kernels)
from groundwork.errors import InputError

UP_TO_HOPPER = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]                 # torch 2.7.1
FROM_TURING = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


CPU = torch.device("cpu")
CHANNELS_LAST, CONTIGUOUS = torch.channels_last, torch.contiguous_format


@pytest.fixture
def insert(monkeypatch):
    """insert(name, capability, archs): two such cards, as torch.cuda tells of them.

    convolve: what convolve_once does there, given a type and a memory format; by default, what it does on the CPU.
    """
    def insert(name, capability, archs=UP_TO_HOPPER, convolve=lambda dtype, memory_format: convolve_once(CPU)):
        for function, value in (("is_available", True), ("device_count", 2), ("get_device_name", name),
                                ("get_device_capability", capability), ("get_arch_list", archs),
                                ("get_device_properties", SimpleNamespace(total_memory=17_059_545_088))):
            monkeypatch.setattr(torch.cuda, function, lambda *device, value=value: value)

        def convolve_there(device, dtype=torch.float32, memory_format=CONTIGUOUS):
            return convolve(dtype, memory_format) if device.type == "cuda" else convolve_once(device)
        monkeypatch.setattr(device_module, "convolve_once", convolve_there)
        monkeypatch.setattr(device_module, "find_precision", device_module.find_precision.__wrapped__)
        monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: None)
    return insert


@pytest.fixture
def t4(insert):
    insert("Tesla T4", (7, 5))


@pytest.mark.parametrize("environment, name, expected", [({}, "auto", "cuda:0"), ({}, "cuda", "cuda:0"),
                                                         ({"LOCAL_RANK": "1"}, "auto", "cuda:1"),
                                                         ({}, "cuda:1", "cuda:1"), ({}, "cpu", "cpu")])
def test_each_process_takes_its_own_cuda_device(monkeypatch, t4, environment, name, expected):
    for key, value in environment.items():
        monkeypatch.setenv(key, value)
    assert choose_device(name) == torch.device(expected)


def test_several_processes_cannot_share_one_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="2 processes"):
        choose_device("cuda:1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(InputError, match="3 processes"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["cuda:2", "mps", "quantum", ""])
def test_devices_that_are_not_there_are_refused(monkeypatch, name):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(InputError):
        choose_device(name)


def test_a_card_without_kernels_is_refused_in_one_line_with_what_to_do(insert, monkeypatch, capsys):
    insert("Tesla P100-PCIE-16GB", (6, 0), FROM_TURING)
    monkeypatch.setattr("sys.argv", ["script"])
    with pytest.raises(SystemExit) as stopped:
        run(lambda: choose_device("auto"))
    line = capsys.readouterr().err
    assert stopped.value.code == 2 and line.count("\n") == 1
    for words in (f"PyTorch {torch.__version__}", "Tesla P100-PCIE-16GB (compute capability 6.0)", "sm_75, sm_80",
                  'pip install "torch==2.7.1" "torchvision==0.22.1"', "T4 x2", "accelerate launch --multi_gpu"):
        assert words in line


def test_a_card_newer_than_pytorch_needs_a_newer_pytorch(insert):
    insert("NVIDIA RTX PRO 6000", (12, 0))
    with pytest.raises(InputError, match="pip install --upgrade torch torchvision") as refused:
        choose_device("cuda")
    assert "torch==2.7.1" not in str(refused.value)


@pytest.mark.parametrize("fails_in", [(torch.float32, torch.float16), (torch.float16,)])
def test_a_first_convolution_that_fails_is_told_with_its_reason(insert, fails_in):
    def convolve(dtype, memory_format):
        if dtype in fails_in:
            raise torch.OutOfMemoryError("CUDA out of memory.\nand a long trace")
        return convolve_once(CPU)
    insert("Tesla P100-PCIE-16GB", (6, 0), convolve=convolve)
    with pytest.raises(InputError, match="CUDA out of memory.; unless another program .*torch==2.7.1") as refused:
        choose_device("cuda:1")
    assert "trace" not in str(refused.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("memory_format", [CHANNELS_LAST, CONTIGUOUS])
def test_the_trial_works_where_it_can_be_run_here(dtype, memory_format):
    for context in (torch.inference_mode(), torch.no_grad(), torch.autocast("cpu", torch.bfloat16)):
        with context:
            assert can_convolve(CPU, dtype, memory_format)


def not_supported(dtype, memory_format):
    raise RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a …")


def nan(dtype, memory_format):
    return torch.full_like(convolve_once(CPU), torch.nan)


P100, T4, H100 = ("Tesla P100-PCIE-16GB", (6, 0)), ("Tesla T4", (7, 5)), ("NVIDIA H100 80GB HBM3", (9, 0))


@pytest.mark.parametrize("card, failing, how, half, memory_format, words", [
    (H100, [], None, torch.bfloat16, CHANNELS_LAST, "bfloat16, channels last"),
    (T4, [], None, torch.float16, CHANNELS_LAST, "float16, channels last"),
    (T4, [(torch.float16, CHANNELS_LAST)], not_supported, torch.float16, CONTIGUOUS, "float16, channels first"),
    (T4, [(torch.float32, CHANNELS_LAST)], not_supported, torch.float16, CONTIGUOUS, "float16, channels first"),
    (P100, [], None, torch.float16, CONTIGUOUS, "float16, channels first"),     # has no tensor cores
    (P100, [(torch.float16, CONTIGUOUS)], not_supported, None, CONTIGUOUS,
     "float32, as convolutions in float16 fail, channels first"),
    (("NVIDIA GeForce GTX 1660", (7, 5)), [(torch.float16, CHANNELS_LAST), (torch.float16, CONTIGUOUS)], nan,
     None, CONTIGUOUS, "float32, as convolutions in float16 fail, channels first")])
def test_a_card_computes_in_what_a_trial_shows_to_work_and_says_so(insert, card, failing, how, half, memory_format,
                                                                 words):
    insert(*card, convolve=lambda *kind: how(*kind) if kind in failing else convolve_once(CPU))
    device = choose_device("auto")
    assert device == torch.device("cuda:0")
    assert (half_precision(device), convolution_format(device)) == (half, memory_format)
    assert describe_work(device) == f"on {card[0]} (16 GiB): {words}"


def test_the_trial_is_made_once(insert, monkeypatch):
    tried = []
    insert(*T4, convolve=lambda *kind: tried.append(kind) or convolve_once(CPU))
    monkeypatch.setattr(device_module, "find_precision", lru_cache(device_module.find_precision))
    device = choose_device("auto")
    count = len(tried)
    assert half_precision(device) == torch.float16 and convolution_format(device) == CHANNELS_LAST
    assert len(tried) == count > 0


def test_convolutions_on_the_cpu_are_channels_last():
    assert convolution_format(CPU) == CHANNELS_LAST


def test_tests_and_the_processes_that_they_start_see_no_cuda_device():
    """As on a machine that has some: bit-identity is promised for one kind of device."""
    code = "import torch; print(torch.cuda.is_available(), torch.cuda.device_count())"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False 0\n"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "" and torch.cuda.device_count() == 0
    assert choose_device("auto") == CPU


@pytest.mark.parametrize("capability, archs, expected", [
    ((6, 0), ["sm_60"], True), ((6, 1), ["sm_60"], True), ((6, 0), ["sm_61"], False),   # later minor numbers only
    ((7, 0), ["sm_60"], False), ((6, 0), ["sm_75", "compute_90"], False),               # another major number
    ((12, 0), ["sm_80", "compute_90"], True), ((9, 0), ["compute_90"], True),           # PTX runs on later cards
    ((9, 0), ["sm_90a"], True), ((10, 0), ["sm_90a", "compute_90a"], False), ((12, 1), ["sm_120a"], False),
    ((10, 3), ["sm_100f"], True), ((12, 0), ["compute_100f"], False),
    ((9, 4), ["gfx942"], True), ((6, 0), [], True)])                                    # nothing said of such cards
def test_kernels_run_where_nvidias_rules_say(capability, archs, expected):
    assert has_kernels(capability, archs) is expected


def test_one_line_tells_what_computes_and_how(insert, monkeypatch):
    insert(*P100)
    p100 = torch.device("cuda", 0)
    assert describe_work(p100, micro_batch=16) == (
        "on Tesla P100-PCIE-16GB (16 GiB): float16, channels first, micro-batch 16")
    assert describe_work(p100, amp=False, processes=2) == (
        "on 2 x Tesla P100-PCIE-16GB (16 GiB): float32, channels first")
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    line = describe_work(CPU, micro_batch=4)
    assert line.startswith(f"on the CPU ({torch.get_num_threads()} threads, ")
    assert line.endswith("GiB): float32, micro-batch 4")
