"""When memory runs out: half as much at once, and the same results; and freed memory that serves again."""
import platform
import re
import resource
import shutil
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from toys import toy_set

import generate
from groundwork.errors import InputError
from groundwork.images import load_image, save_image
from groundwork.memory import AdaptiveBatches, is_out_of_memory, keep_freed_memory, large_array
from microdoppler.data.latents import load_or_encode
from microdoppler.data.overlap import Successor
from microdoppler.data.stitching import Cut, load_cuts
from microdoppler.study.arms import Arm
from microdoppler.study.classifier import Update, build_classifier, features, predict, train_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import plan_network
from microdoppler.study.recipe import Recipe
from vae.kl_vae import KL_VAE

CPU = torch.device("cpu")


def short_of_memory(monkeypatch, owner, name, fits, tried):
    """Let owner.name(self, batch, …) raise what CUDA does for more than `fits` items; `tried` gets the sizes."""
    plain = getattr(owner, name)

    def limited(self, batch, *rest, **options):
        tried.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return plain(self, batch, *rest, **options)
    monkeypatch.setattr(owner, name, limited)


@pytest.mark.parametrize("count, size, fits", [(1, 8, 1), (7, 8, 3), (16, 8, 8), (20, 16, 1), (5, 2, 100)])
def test_parts_join_to_the_whole(count, size, fits, capsys):
    tried = []

    def double(numbers, names):
        tried.append(len(numbers))
        assert len(numbers) == len(names)
        if len(numbers) > fits:
            raise RuntimeError("CUDA out of memory.")
        return numbers * 2
    parts = AdaptiveBatches(size, "number")
    for _ in range(2):
        assert torch.equal(parts.map(double, torch.arange(count), list("x" * count)), torch.arange(count) * 2)
    assert max(tried[len(tried) // 2:]) <= max(fits, 1)        # the second time it knows
    assert ("out of memory: from here on" in capsys.readouterr().out) == (min(count, size) > fits)


@pytest.mark.parametrize("error, expected", [
    (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), True),
    (torch.OutOfMemoryError("Not enough memory for workspace!"), True),         # a convolution with cudnn.benchmark
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
    (RuntimeError("CUDA driver error: out of memory"), True),
    (RuntimeError("Triton Error [CUDA]: out of memory"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"), True),
    (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasSgemm(…)`"), False),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED"), True),
    (RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"), True),
    (RuntimeError("FIND was unable to find an engine to execute this computation"), True),
    (RuntimeError("Unable to find a valid cuDNN algorithm to run convolution"), True),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:114] err == 0. DefaultCPUAllocator: can't allocate memory: you tried "
                  "to allocate 8 bytes. Error code 12 (Cannot allocate memory)"), True),
    (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),     # Windows
    (RuntimeError("unable to mmap 8 bytes from file </x>: Cannot allocate memory (12)"), True),
    (RuntimeError("std::bad_alloc"), True),
    (MemoryError("Unable to allocate 7.45 GiB for an array with shape (1000000000,)"), True),           # numpy
    (RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous "
                  "input."), False),
    (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
    (RuntimeError("CUDA error: an illegal memory access was encountered"), False),
    (RuntimeError("CUDA error: operation not permitted when stream is capturing"), False),
    (RuntimeError("out of resource: shared memory, Required: 131072, Hardware limit: 101376"), False),
    (InputError("not even one image at a time fits in memory (CUDA out of memory.)"), False),
    (KeyboardInterrupt(), False), (OSError(12, "Cannot allocate memory"), False)])
def test_a_lack_of_memory_is_told_from_other_errors(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_real_lack_of_memory_of_the_cpu_is_one():
    for allocate in (lambda: torch.empty(2 ** 60, dtype=torch.uint8), lambda: np.empty(2 ** 60, dtype=np.uint8)):
        with pytest.raises((RuntimeError, MemoryError)) as failed:
            allocate()
        assert is_out_of_memory(failed.value)


def test_what_is_no_lack_of_memory_is_raised():
    with pytest.raises(RuntimeError, match="shapes"):
        AdaptiveBatches(4, "x").map(lambda x: (_ for _ in ()).throw(RuntimeError("shapes")), torch.arange(4))


def test_one_that_does_not_fit_is_refused():
    def too_much(_):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    with pytest.raises(InputError, match="not even one image at a time"):
        AdaptiveBatches(4, "image").map(too_much, torch.arange(4))


def test_encoding(monkeypatch, tmp_path):
    torch.manual_seed(0)
    vae, tried = KL_VAE({"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1}).eval(), []
    noise = np.random.default_rng(0)
    for i in range(5):
        save_image(tmp_path / "ID_1" / f"{i}.png", noise.integers(0, 256, (16, 16, 3), dtype=np.uint8))

    def encode(folder):
        return np.array(load_or_encode(vae, tmp_path, [Cut(f"ID_1/{i}.png") for i in range(5)], torch.zeros(5).long(),
                                       image_size=16, folder=tmp_path / folder, batch_size=4, device=CPU).posteriors)
    whole = encode("whole")
    short_of_memory(monkeypatch, KL_VAE, "encode", 1, tried)
    assert np.allclose(encode("parts"), whole, atol=2e-3) and tried == [4, 2, 1, 1, 1, 1, 1]


def test_classification(monkeypatch):
    data, tried = toy_set(8, seed=0), []

    def train():
        batches = Arm(KINDS["real only"], data).batches(Recipe(epochs=3, batch_size=8, lr=1e-3), 2, seed=0)
        return train_classifier(batches, network=plan_network("resnet18", 32), num_classes=2, num_steps=6, lr=1e-3,
                                seed=0, device=CPU)
    model = train()
    whole = predict(model, data.images), features(model, data.images)
    short_of_memory(monkeypatch, torchvision.models.ResNet, "forward", 4, tried)
    parts = predict(model, data.images), features(model, data.images)
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(whole, parts))
    tried.clear()
    model = train()
    assert tried[:3] == [8, 4, 4] and max(tried[1:]) == 4       # it knows from the second step on
    assert predict(model, data.images).isfinite().all()


def test_gradients_of_a_batch_in_parts_are_those_of_the_whole(monkeypatch):
    """Where batch normalisation does not look at the batch, that is in evaluation mode."""
    data, tried = toy_set(4, seed=0), []
    model = build_classifier(plan_network("resnet18", 32), 2, 0).eval()

    def gradients():
        update = Update(model)
        update.parts.retry_until_it_fits(lambda: update.set_gradients(data.images, data.labels), 8)
        return torch.cat([p.grad.flatten() for p in model.parameters()])
    whole = gradients()
    short_of_memory(monkeypatch, torchvision.models.ResNet, "forward", 3, tried)
    assert (gradients() - whole).norm() < 1e-5 * whole.norm() and tried == [8, 4, 2, 2, 2, 2]


def test_generation(monkeypatch, demo, tmp_path):
    def draw(folder):
        generate.main(checkpoint=demo[0] / "results" / "model-3.pt", user_id=(1,), num_samples=5, device="cpu",
                      output_dir=tmp_path / folder)
        return [load_image(path, 64).astype(int) for path in sorted((tmp_path / folder).rglob("*.png"))]
    whole, tried = draw("whole"), []
    short_of_memory(monkeypatch, KL_VAE, "decode_latents", 2, tried)
    parts = draw("parts")
    assert len(parts) == 5 and all(abs(a - b).max() <= 1 for a, b in zip(whole, parts)) and tried[0] == 5


def page_faults(tensors=20):
    """The median over tensors of 64 MB, one after the other, of how many pages the system handed out for each."""
    counts = []
    for _ in range(tensors):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(2 ** 24)
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return median(counts)


def page_faults_without_and_with():
    anew = page_faults()
    keep_freed_memory()
    return anew, page_faults()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_freed_memory_serves_the_next_tensor():
    """In a fresh process: this one's heap may have room for them already."""
    with ProcessPoolExecutor(1, get_context("spawn")) as process:
        anew, kept = process.submit(page_faults_without_and_with).result()
    assert kept < anew / 10


def test_large_arrays_take_no_memory_of_the_process(tmp_path, monkeypatch):
    """The system can take back what lies in a file; without room for the file, the array lies in memory."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def anonymous():
        return int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024
    if not Path("/proc/self/status").exists():
        pytest.skip("this system does not tell what memory of a process it cannot take back")
    before = anonymous()
    images = large_array((200, 1000, 1000))
    images[:] = 7
    assert anonymous() - before < 20 and images.sum() == 1_400_000_000 and not list(tmp_path.iterdir())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    assert not isinstance(large_array((200, 1000, 1000)), np.memmap)


def test_cuts_made_in_parts_are_the_same(tmp_path, monkeypatch):
    random = np.random.default_rng(0)
    for name in ("1.png", "2.png"):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(tmp_path / name)
    cuts = [Cut("1.png", Successor("2.png", 0.25), i / 7, 0.03 * (i % 3 - 1)) for i in range(7)]
    whole = load_cuts(tmp_path, cuts, 32)
    monkeypatch.setattr("microdoppler.data.stitching.AT_ONCE", 3)
    monkeypatch.setattr("groundwork.memory.LARGE", 1)
    assert torch.equal(load_cuts(tmp_path, cuts, 32), whole)
