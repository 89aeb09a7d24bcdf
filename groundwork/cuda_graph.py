"""CUDA graphs: all kernels of a function, launched together.

A small network spends most of a step on launching its kernels one by one. A graph launches them at once (Gray 2019,
"Getting Started with CUDA Graphs").
"""
import warnings
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from groundwork.memory import is_out_of_memory

Inputs = Mapping[str, Tensor]
USE_GRAPHS = True       # False: kernels are launched one by one, as benchmarks and checks compare
END_OF_POOL = "_cuda_endAllocateToPool", "_cuda_endAllocateCurrentStreamToPool"     # the latter up to PyTorch 2.7
NUM_WARM_UPS = 3        # cuDNN chooses its algorithms there, Triton compiles, and autograd creates what it keeps


class Graph:
    """A function of tensors on CUDA, captured once and replayed on other inputs of the same shapes. See `capture`."""

    def __init__(self, function: Callable[[Inputs], Any], inputs: Inputs, device: torch.device,
                 generators: Sequence[torch.Generator]):
        self.inputs = {name: value.to(device, copy=True) for name, value in inputs.items()}
        stream = _capture_stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream), _casts_are_not_kept():
            for _ in range(NUM_WARM_UPS - 1):
                function(self.inputs)
            with _synchronising_is_an_error():      # such a function fails here, since a failed capture does damage
                function(self.inputs)
        torch.cuda.current_stream(device).wait_stream(stream)
        self.graph = torch.cuda.CUDAGraph()
        for generator in generators:
            self.graph.register_generator_state(generator)
        pool = torch.cuda.graph_pool_handle()
        try:
            # "thread_local": CUDA calls of NCCL's watchdog, in another thread, do not break the capture.
            with (_casts_are_not_kept(),
                  torch.cuda.graph(self.graph, pool, stream, capture_error_mode="thread_local")):
                self.outputs = function(self.inputs)
        except BaseException:
            _release(pool, device)
            for generator in (*generators, torch.cuda.default_generators[torch.cuda.current_device()]):
                generator.graphsafe_set_state(generator.clone_state())      # else it goes on as in a capture
            raise

    def __call__(self, inputs: Inputs) -> Any:
        """The function's result for `inputs`, which may also lie on the CPU. The next call overwrites the result."""
        for name, value in inputs.items():
            self.inputs[name].copy_(value, non_blocking=True)
        self.graph.replay()
        return self.outputs


def capture(function: Callable[[Inputs], Any], inputs: Inputs, device: torch.device, *,
            generators: Sequence[torch.Generator] = (), state: Sequence[Tensor] = ()) -> Graph | None:
    """Capture a function as a CUDA graph. If that is impossible, print the reason and return None.

    function: function(inputs) -> tensor or tuple of tensors. It is called a few times. All tensors must have the shapes
        of `inputs` in later calls, and nothing may make the CPU wait for the device.
    generators: on `device`, from which the function draws. Seed them before a call of the graph, not in the function.
    state: tensors that the function changes. They and the generators are afterwards as they were before.

    Afterwards `device` is the current one. Raises RuntimeError if memory runs out.
    """
    stream = torch.cuda.current_stream(device)
    saved, saved_generators = [tensor.clone() for tensor in state], [generator.get_state() for generator in generators]
    try:
        with torch.cuda.device(device):
            return Graph(function, inputs, device, generators)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        print(f"no CUDA graph ({str(error).splitlines()[0]}): kernels are launched one by one", flush=True)
        return None
    finally:
        torch.cuda.set_stream(stream)       # a capture that fails leaves its own stream current
        torch.cuda.synchronize(device)
        for tensor, value in zip(state, saved):
            tensor.copy_(value)
        for generator, generator_state in zip(generators, saved_generators):
            generator.set_state(generator_state)


class Graphed:
    """A function of tensors that becomes a CUDA graph when it is first called with inputs of new shapes.

    On the CPU, with enabled=False, and where a capture was impossible, it is called as it is. Arguments: see
    `capture`. or_eager: also where memory runs out in a capture, instead of raising. `graphs` can be cleared to free
    their memory.
    """

    def __init__(self, function: Callable[[Inputs], Any], device: torch.device, *,
                 generators: Sequence[torch.Generator] = (), state: Sequence[Tensor] = (), enabled: bool = True,
                 or_eager: bool = False):
        self.function, self.device, self.generators, self.state = function, device, generators, state
        self.or_eager = or_eager
        self.enabled = enabled and device.type == "cuda"
        self.graphs: dict[tuple, Graph] = {}

    def __call__(self, inputs: Inputs) -> Any:
        """The function's result. The next call with inputs of the same shapes overwrites it."""
        key = tuple(value.shape for value in inputs.values())
        if not (self.enabled and USE_GRAPHS):
            return self.function(inputs)
        if key not in self.graphs:
            graph = self._captured(inputs)
            self.enabled = graph is not None
            if graph is not None:
                self.graphs[key] = graph
        return self.graphs[key](inputs) if self.enabled else self.function(inputs)


    def _captured(self, inputs: Inputs) -> Graph | None:
        """A new graph; None where there can be none."""
        try:
            return capture(self.function, inputs, self.device, generators=self.generators, state=self.state)
        except RuntimeError as error:
            if not (self.or_eager and is_out_of_memory(error)):
                raise
        print("no memory for a CUDA graph: kernels are launched one by one", flush=True)
        return None


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of all parameters. Where it is a tensor, this stays the same one, which graphs read."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(lr)
        else:
            group["lr"] = lr


@cache      # cuBLAS keeps 32 MiB or more for every stream that it has been used on
def _capture_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream on which graphs of this device are captured. PyTorch's own may belong to another device."""
    return torch.cuda.Stream(device)


@contextmanager
def _synchronising_is_an_error() -> Iterator[None]:
    """Within the block, an operation that makes the CPU wait for the device raises RuntimeError, in all threads."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype")
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextmanager
def _casts_are_not_kept() -> Iterator[None]:
    """Within the block, autocast casts weights whenever they are used. Those that it keeps are freed when autocast
    ends, and a graph would go on reading their memory.
    """
    is_kept = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(is_kept)


def _release(pool: Any, device: torch.device) -> None:
    """Give back the memory pool of a capture that failed.

    PyTorch 2.7 to 2.14 leave it in use if ending the capture raises. The allocator then believes that it captures, and
    torch.cuda.empty_cache() fails from then on.
    """
    index = device.index if device.index is not None else torch.cuda.current_device()
    end = next(getattr(torch._C, name) for name in END_OF_POOL if hasattr(torch._C, name))
    with suppress(RuntimeError):        # raised where PyTorch has ended it itself
        end(index, pool)
        torch._C._cuda_releasePool(index, pool)
