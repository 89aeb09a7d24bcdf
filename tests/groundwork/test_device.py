"""Which device is chosen, what is said where PyTorch has no kernels for it, and the line that tells what computes."""
from types import SimpleNamespace

import pytest
import torch

from groundwork import device as device_module
from groundwork.command_line import run
from groundwork.device import choose_device, convolve_once, describe_work, has_kernels
from groundwork.errors import InputError

UP_TO_HOPPER = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]                 # torch 2.7.1
FROM_TURING = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.fixture
def insert(monkeypatch):
    """insert(name, capability, archs): two such cards, as torch.cuda tells of them."""
    def insert(name, capability, archs=UP_TO_HOPPER, convolve_once=lambda device: None):
        for function, value in (("is_available", True), ("device_count", 2), ("get_device_name", name),
                                ("get_device_capability", capability), ("get_arch_list", archs),
                                ("get_device_properties", SimpleNamespace(total_memory=17_059_545_088))):
            monkeypatch.setattr(torch.cuda, function, lambda *device, value=value: value)
        monkeypatch.setattr(device_module, "convolve_once", convolve_once)
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


def test_a_first_convolution_that_fails_is_told_with_its_reason(insert):
    def fails(device):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ARCH_MISMATCH\nand a long trace")
    insert("Tesla P100-PCIE-16GB", (6, 0), convolve_once=fails)
    with pytest.raises(InputError, match="CUDNN_STATUS_ARCH_MISMATCH; unless .*torch==2.7.1") as refused:
        choose_device("cuda:1")
    assert "trace" not in str(refused.value)


def test_a_card_with_kernels_is_tried_and_taken(insert):
    tried = []
    insert("Tesla P100-PCIE-16GB", (6, 0), convolve_once=tried.append)
    assert choose_device("auto") == torch.device("cuda:0") == tried[0]
    convolve_once(torch.device("cpu"))      # what is tried there works where it can be run here


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
    insert("Tesla P100-PCIE-16GB", (6, 0))
    p100 = torch.device("cuda", 0)
    assert describe_work(p100, uses_graph=True, micro_batch=16) == (
        "on Tesla P100-PCIE-16GB (16 GiB): float16, CUDA graph, not compiled, micro-batch 16")
    assert describe_work(p100, amp=False, processes=2) == (
        "on 2 x Tesla P100-PCIE-16GB (16 GiB): float32, not compiled")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert "bfloat16" in describe_work(p100)
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    line = describe_work(torch.device("cpu"), uses_graph=True, micro_batch=4)
    assert line.startswith(f"on the CPU ({torch.get_num_threads()} threads, ")
    assert line.endswith("GiB): float32, not compiled, micro-batch 4")
