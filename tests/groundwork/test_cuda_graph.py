"""CUDA graphs: what they compute, what a failed capture leaves behind, and that without CUDA nothing changes."""
import pytest
import torch

from groundwork import cuda_graph
from groundwork.cuda_graph import Graphed, capture

X = torch.arange(4.0)


def test_without_cuda_the_function_is_called_as_it_is():
    calls = []
    graphed = Graphed(lambda inputs: calls.append(inputs) or inputs["x"] + 1, torch.device("cpu"))
    assert torch.equal(graphed({"x": X}), X + 1) and len(calls) == 1 and not graphed.graphs


def test_this_pytorch_has_what_a_failed_capture_is_mended_with():
    """Private functions, one of which got another name after PyTorch 2.7. A PyTorch without CUDA has none of them."""
    if not hasattr(torch._C, "_cuda_releasePool"):
        pytest.skip("a PyTorch without CUDA")
    assert any(hasattr(torch._C, name) for name in cuda_graph.END_OF_POOL)
    assert hasattr(torch.Generator, "clone_state") and hasattr(torch.Generator, "graphsafe_set_state")


def test_where_memory_runs_out_in_a_capture_a_small_function_goes_on_without_a_graph(monkeypatch, capsys):
    def no_memory(*_, **__):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 MiB.")
    monkeypatch.setattr(cuda_graph, "capture", no_memory)
    large, small = (Graphed(lambda inputs: inputs["x"] + 1, torch.device("cpu"), or_eager=or_eager)
                    for or_eager in (False, True))
    large.enabled = small.enabled = True        # as on CUDA
    with pytest.raises(RuntimeError, match="out of memory"):
        large({"x": X})
    assert torch.equal(small({"x": X}), X + 1) and torch.equal(small({"x": X}), X + 1)
    assert capsys.readouterr().out.count("no memory for a CUDA graph") == 1


@pytest.mark.cuda
def test_a_graph_is_captured_once_for_each_shape_and_takes_inputs_from_the_cpu():
    calls = []
    graphed = Graphed(lambda inputs: calls.append(1) or 2 * inputs["x"], torch.device("cuda", 0))
    for x in (X, X + 5, X[:2], X - 1):
        assert torch.equal(graphed({"x": x}).cpu(), 2 * x)
    assert len(calls) == 2 * (cuda_graph.NUM_WARM_UPS + 1) and len(graphed.graphs) == 2


@pytest.mark.cuda
def test_the_switch_turns_graphs_off(monkeypatch):
    monkeypatch.setattr(cuda_graph, "USE_GRAPHS", False)
    graphed = Graphed(lambda inputs: 2 * inputs["x"], torch.device("cuda", 0))
    assert torch.equal(graphed({"x": X.cuda()}).cpu(), 2 * X) and not graphed.graphs


@pytest.mark.cuda
def test_a_capture_leaves_state_and_random_numbers_as_they_were():
    device = torch.device("cuda", 0)
    generator, state = torch.Generator(device), torch.zeros(4, device=device)

    def add_noise(inputs):
        state.add_(torch.randn(4, generator=generator, device=device))
        return state.clone()
    generator.manual_seed(3)
    expected = add_noise({})
    state.zero_()
    graphed = Graphed(add_noise, device, generators=[generator], state=[state])
    for _ in range(2):      # the second time without a capture
        generator.manual_seed(3)
        state.zero_()
        assert torch.equal(graphed({}), expected) and torch.equal(state, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("waits_in_warm_up", [True, False])
def test_what_cannot_be_captured_is_said_and_the_allocator_still_works(waits_in_warm_up, capsys):
    device = torch.device("cuda", 0)

    def wait(inputs):
        if waits_in_warm_up or torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(device) if not waits_in_warm_up else inputs["x"].sum().item()
        return inputs["x"] + 1
    generator = torch.Generator(device)
    assert capture(wait, {"x": X}, device, generators=[generator]) is None
    assert "no CUDA graph" in capsys.readouterr().out
    torch.cuda.empty_cache()
    torch.randn(3, device=device), torch.randn(3, generator=generator, device=device)       # no longer as in a capture
    again = capture(lambda inputs: inputs["x"] + 1, {"x": X}, device)
    assert again is not None and torch.equal(again({"x": X}).cpu(), X + 1)
