"""Micro-batches when memory is short, and CUDA graphs, against the whole batch at once."""
import pytest
import torch

from denoising_diffusion_pytorch.gradients import Gradients
from groundwork.errors import InputError

OUT_OF_MEMORY = ["CUDA out of memory. Tried to allocate 20.00 GiB.",
                 "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried …"]


def make_gradients(device="cpu", fits=10 ** 6):
    """(Gradients of mean (w x)^2, w, the sizes of the micro-batches that were tried); more than `fits` is too much."""
    w, tried = torch.tensor([1.0, -2.0, 3.0], device=device, requires_grad=True), []

    def backward(batch, share):
        tried.append(len(batch["x"]))
        if len(batch["x"]) > fits:
            raise RuntimeError(OUT_OF_MEMORY[len(tried) % 2])
        loss = (w * batch["x"]).square().sum(dim=1).mean() * share
        loss.backward()
        return loss.detach()
    return Gradients(backward, [w]), w, tried


def batch_of(size, device="cpu"):
    return {"x": torch.randn(size, 3, generator=torch.Generator().manual_seed(size)).to(device)}


def expected(batch, w):
    """The loss and its gradient, by hand."""
    squares = batch["x"].square()
    return (w.detach() ** 2 * squares).sum(dim=1).mean(), 2 * w.detach() * squares.mean(dim=0)


@pytest.mark.parametrize("size", [1, 7, 16])
@pytest.mark.parametrize("fits", [1, 3, 100])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(size, fits, capsys):
    gradients, w, tried = make_gradients(fits=fits)
    for _ in range(2):      # the second time it knows what fits, and the first one's gradients are gone
        tried.clear()
        loss = gradients(batch_of(size))
        torch.testing.assert_close((loss, w.grad), expected(batch_of(size), w))
    assert max(tried) <= fits and sum(tried) == size
    assert ("out of memory" in capsys.readouterr().out) == (size > fits)


def test_half_of_a_failed_batch_leaves_no_gradient():
    gradients, w, _ = make_gradients()
    calls = []

    def backward(batch, share):
        calls.append(len(batch["x"]))
        if len(calls) == 2:
            raise RuntimeError(OUT_OF_MEMORY[0])
        return whole(batch, share)
    whole, gradients.backward, gradients.parts.size = gradients.backward, backward, 4
    torch.testing.assert_close((gradients(batch_of(8)), w.grad), expected(batch_of(8), w))
    assert calls == [4, 4, 2, 2, 2, 2]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    gradients, _, _ = make_gradients()

    def backward(batch, share):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    gradients.backward = backward
    with pytest.raises(RuntimeError, match="shapes"):
        gradients(batch_of(4))


def test_one_image_that_does_not_fit_ends_in_one_line():
    with pytest.raises(InputError, match="not even one image"):
        make_gradients(fits=0)[0](batch_of(4))


@pytest.mark.cuda
def test_a_graph_gives_what_the_kernels_one_by_one_give():
    gradients, w, _ = make_gradients("cuda")
    for size in (8, 8, 8):
        loss = gradients(batch_of(size, "cuda"))
        torch.testing.assert_close((loss, w.grad), expected(batch_of(size, "cuda"), w))
    assert set(gradients.graphs) == {(8, 1.0)}
    gradients.parts.size = 4       # two replays to a batch
    torch.testing.assert_close((gradients(batch_of(8, "cuda")), w.grad), expected(batch_of(8, "cuda"), w))
    torch.testing.assert_close((gradients(batch_of(6, "cuda")), w.grad), expected(batch_of(6, "cuda"), w))
    assert set(gradients.graphs) == {(8, 1.0), (4, 0.5), (4, 4 / 6), (2, 2 / 6)}


@pytest.mark.cuda
def test_what_cannot_be_captured_is_launched_one_by_one(capsys):
    gradients, w, _ = make_gradients("cuda")
    plain = gradients.backward

    def backward(batch, share):
        loss = plain(batch, share)
        loss.item()     # waits for the device, which a graph cannot
        return loss
    gradients.backward = backward
    torch.testing.assert_close((gradients(batch_of(8, "cuda")), w.grad), expected(batch_of(8, "cuda"), w))
    assert "no CUDA graph" in capsys.readouterr().out
