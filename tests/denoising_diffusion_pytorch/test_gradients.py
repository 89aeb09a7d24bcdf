"""Micro-batches when memory is short, and CUDA graphs, against the whole batch at once."""
import pytest
import torch

from denoising_diffusion_pytorch.gradients import Gradients
from denoising_diffusion_pytorch.weight_update import WeightUpdate
from groundwork.errors import InputError

OUT_OF_MEMORY = ["CUDA out of memory. Tried to allocate 20.00 GiB.",
                 "[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried …"]


def make_gradients(device="cpu", fits=10 ** 6):
    """(Gradients of mean (w x)^2, its network, the sizes of the micro-batches that were tried); more than `fits` is too
    much.
    """
    network, tried = torch.nn.ParameterList([torch.tensor([1.0, -2.0, 3.0], device=device)]), []
    weights = WeightUpdate(network, lr=0.1, betas=(0.9, 0.99), max_grad_norm=1.0, ema_decay=0.9, ema_update_every=1,
                           half_precision=None)

    def loss(batch):
        tried.append(len(batch["x"]))
        if len(batch["x"]) > fits:
            raise RuntimeError(OUT_OF_MEMORY[len(tried) % 2])
        return (network[0] * batch["x"]).square().sum(dim=1).mean()
    return Gradients(loss, weights), tried


def gradient(gradients):
    return gradients.weights.grads[:3]


def batch_of(size, device="cpu"):
    return {"x": torch.randn(size, 3, generator=torch.Generator().manual_seed(size)).to(device)}


def expected(batch):
    """The loss and its gradient, by hand."""
    squares, w = batch["x"].square(), torch.tensor([1.0, -2.0, 3.0]).to(batch["x"].device)
    return (w ** 2 * squares).sum(dim=1).mean(), 2 * w * squares.mean(dim=0)


@pytest.mark.parametrize("size", [1, 7, 16])
@pytest.mark.parametrize("fits", [1, 3, 100])
def test_out_of_memory_halves_the_micro_batch_and_changes_nothing_else(size, fits, capsys):
    gradients, tried = make_gradients(fits=fits)
    for _ in range(2):      # the second time it knows what fits, and the first one's gradients are gone
        tried.clear()
        loss = gradients(batch_of(size))
        torch.testing.assert_close((loss, gradient(gradients)), expected(batch_of(size)))
    assert max(tried) <= fits and sum(tried) == size
    assert ("out of memory" in capsys.readouterr().out) == (size > fits)


def test_half_of_a_failed_batch_leaves_no_gradient():
    gradients, _ = make_gradients()
    calls = []

    def loss(batch):
        calls.append(len(batch["x"]))
        if len(calls) == 2:
            raise RuntimeError(OUT_OF_MEMORY[0])
        return whole(batch)
    whole, gradients.loss, gradients.parts.size = gradients.loss, loss, 4
    torch.testing.assert_close((gradients(batch_of(8)), gradient(gradients)), expected(batch_of(8)))
    assert calls == [4, 4, 2, 2, 2, 2]


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    gradients, _ = make_gradients()

    def loss(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    gradients.loss = loss
    with pytest.raises(RuntimeError, match="shapes"):
        gradients(batch_of(4))


def test_one_image_that_does_not_fit_ends_in_one_line():
    with pytest.raises(InputError, match="not even one image"):
        make_gradients(fits=0)[0](batch_of(4))


def captured(gradients):
    return {key for key, graphed in gradients.graphed.items() if graphed.graphs}


@pytest.mark.cuda
def test_a_graph_gives_what_the_kernels_one_by_one_give():
    gradients, _ = make_gradients("cuda")
    for size in (8, 8, 8):
        loss = gradients(batch_of(size, "cuda"))
        torch.testing.assert_close((loss, gradient(gradients)), expected(batch_of(size, "cuda")))
    assert captured(gradients) == {(1.0, True)}
    gradients.parts.size = 4       # two replays to a batch
    torch.testing.assert_close((gradients(batch_of(8, "cuda")), gradient(gradients)), expected(batch_of(8, "cuda")))
    torch.testing.assert_close((gradients(batch_of(6, "cuda")), gradient(gradients)), expected(batch_of(6, "cuda")))
    assert captured(gradients) == {(1.0, True), (0.5, False), (4 / 6, False), (2 / 6, False)}


@pytest.mark.cuda
def test_what_cannot_be_captured_is_launched_one_by_one(capsys):
    gradients, _ = make_gradients("cuda")
    plain = gradients.loss

    def loss(batch):
        mean = plain(batch)
        mean.item()     # waits for the device, which a graph cannot
        return mean
    gradients.loss = loss
    torch.testing.assert_close((gradients(batch_of(8, "cuda")), gradient(gradients)), expected(batch_of(8, "cuda")))
    assert "no CUDA graph" in capsys.readouterr().out
