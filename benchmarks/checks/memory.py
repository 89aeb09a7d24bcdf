"""When memory runs out and when a graph cannot be captured, work goes on."""
import gc
from contextlib import contextmanager
from typing import Callable, Iterator, Mapping

import torch
from torch import Tensor

from benchmarks.checks.check import Outcome, Setting, difference, make_trainer
from groundwork.cuda_graph import capture
from groundwork.memory import is_out_of_memory

Inputs = Mapping[str, Tensor]
MAX_LOSS_ERROR = 0.05       # of a step in micro-batches, against the whole batch at once
SHARE_OF_NEED = 0.7         # of the memory that a step takes: too little for it, and enough for half its images


def out_of_memory_in_training(setting: Setting) -> Outcome:
    """A limit on the memory that the whole batch exceeds: the micro-batch is halved, and the loss stays the same."""
    trainer = make_trainer(setting)
    torch.cuda.reset_peak_memory_stats(setting.device)
    needed = -torch.cuda.memory_allocated(setting.device)
    expected = float(trainer.train_step()[0])
    needed += torch.cuda.max_memory_allocated(setting.device)
    del trainer
    gc.collect()
    small = make_trainer(setting)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(setting.device)
    with limited_memory(setting.device, int(before + SHARE_OF_NEED * needed)):
        losses = [float(small.train_step()[0]) for _ in range(2)]
        parts = small.gradients.parts.size
    after = float(small.train_step()[0])
    error = abs(losses[0] / expected - 1)
    batch = small.global_batch
    passed = parts < batch and error < MAX_LOSS_ERROR and after == after
    return Outcome(passed, f"micro-batch {min(parts, batch)} of {batch} (fewer expected), loss differs by {error:.2g} "
                   f"(below {MAX_LOSS_ERROR:g})", {"micro_batch": min(parts, batch), "batch": batch, "losses": losses,
                                                   "expected": expected, "needed_bytes": needed,
                                                   "before_bytes": before})


@contextmanager
def limited_memory(device: torch.device, limit: int) -> Iterator[None]:
    """Within the block, this process may take `limit` bytes of the card's memory."""
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(device).total_memory, device)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, device)


def out_of_memory_in_a_capture(setting: Setting) -> Outcome:
    """A function that takes too much memory only while it is captured."""
    free = torch.cuda.mem_get_info(setting.device)[0]

    def function(inputs: Inputs) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            torch.empty(2 * free, dtype=torch.uint8, device=setting.device)
        return inputs["x"] * 2
    return _goes_on(setting, function, raises=True)


def failed_warm_up(setting: Setting) -> Outcome:
    """A function that waits for the device, which a graph cannot do: it is found before the capture."""
    def function(inputs: Inputs) -> Tensor:
        return inputs["x"] * inputs["x"].sum().item()
    return _goes_on(setting, function)


def failed_capture(setting: Setting) -> Outcome:
    """A function that waits for the device only while it is captured."""
    def function(inputs: Inputs) -> Tensor:
        if torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(setting.device)
        return inputs["x"] * 2
    return _goes_on(setting, function)


def _goes_on(setting: Setting, function: Callable[[Inputs], Tensor], raises: bool = False) -> Outcome:
    """Capturing `function` must fail, with an out-of-memory error if `raises`. Then the allocator, another capture and
    training must work."""
    inputs, device = {"x": torch.arange(1000.0, device=setting.device)}, setting.device
    reserved = torch.cuda.memory_reserved(device)
    try:
        failed, raised = capture(function, inputs, device) is None, False
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        failed = raised = True
    torch.cuda.empty_cache()
    kept = torch.cuda.memory_reserved(device) - reserved
    graph = capture(lambda inputs: inputs["x"] + 1, inputs, device)
    again = graph is not None and difference(graph(inputs), inputs["x"] + 1) == 0
    trains = all(float(make_trainer(setting, graphs=graphs).train_step()[0]) > 0 for graphs in (False, True))
    found = {"failed": failed, "raised": raised, "captures_again": again, "trains": trains, "bytes_kept": kept}
    return Outcome(failed and raised == raises and again and trains, f"{'raised' if raised else 'no graph'}; then "
                   f"empty_cache works, another capture {'works' if again else 'FAILS'}, training "
                   f"{'works' if trains else 'FAILS'}; {kept} bytes kept", found)


def training_without_a_graph(setting: Setting) -> Outcome:
    """A step that waits for the device is not captured; its kernels are launched one by one."""
    trainer, waits = make_trainer(setting, amp=False), []
    trainer.diffusion.model.register_forward_pre_hook(lambda module, inputs: waits.append(inputs[0].sum().item()))
    losses = [float(trainer.train_step()[0]) for _ in range(3)]
    expected = _eager_losses(setting, 3)
    error = max(abs(found / loss - 1) for found, loss in zip(losses, expected))
    torch.cuda.empty_cache()
    return Outcome(error < MAX_LOSS_ERROR and len(waits) > 3, f"3 steps, losses differ from eager ones by {error:.2g} "
                   f"(below {MAX_LOSS_ERROR:g})", {"losses": losses, "expected": expected})


def _eager_losses(setting: Setting, steps: int) -> list[float]:
    trainer = make_trainer(setting, graphs=False, amp=False)
    return [float(trainer.train_step()[0]) for _ in range(steps)]
