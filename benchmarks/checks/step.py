"""The training step: a CUDA graph, kernels launched one by one and the CPU must agree; and how long each form takes."""
import time
from statistics import median
from typing import Any, Mapping

import torch
from torch import Tensor
from torch.autograd import DeviceType

from benchmarks.checks.check import Outcome, Setting, difference, make_trainer, precision, weights_of
from denoising_diffusion_pytorch.trainer import Trainer
from groundwork.cuda_graph import capture
from groundwork.device import autocast, half_precision
from groundwork.seeding import seeded
from microdoppler.pipeline.assembly import build_diffusion
from train_latent_cfg import Config

# Of the norm of all gradients. On a CPU at full size, bfloat16 differs by 0.008, and float16 by about 0.003. On cards
# of compute capability 8.0 and more, float32 is TensorFloat-32, whose mantissa is as long as that of float16.
MAX_GRADIENT_ERROR = {torch.float32: 0.005, torch.bfloat16: 0.03, torch.float16: 0.01}
LOSS_SCALE = 1024.0             # gradients of single weights would underflow in float16
# Of the norm of all changes in 20 steps. Adam makes steps of the same size of gradients that are mostly rounding.
MAX_UPDATE_ERROR, MAX_UPDATE_ERROR_OF_HALF = 0.03, 0.1
NUM_STEPS, WINDOW = 20, 10      # steps that are compared; steps between two looks at the clock
NUM_KERNELS_SHOWN = 12


def gradients(setting: Setting) -> Outcome:
    """Gradients of a batch: one by one and as a graph on the device, against float32 on the CPU."""
    figures, passed = {}, True
    with precision(None):
        expected = _gradients_on(torch.device("cpu"), setting.config)
    for dtype, bound in MAX_GRADIENT_ERROR.items():
        if not setting.on_cuda and dtype not in (torch.float32, half_precision(setting.device)):
            continue
        with precision(dtype if dtype != torch.float32 else None):
            found = _gradients_on(setting.device, setting.config)
            errors = {"eager": difference(found, expected)}
            if setting.on_cuda:
                in_graph = _gradients_on(setting.device, setting.config, as_graph=True)
                errors |= {"graph": difference(in_graph, expected), "graph to eager": difference(in_graph, found)}
        figures[str(dtype).removeprefix("torch.")] = errors | {"bound": bound}
        passed &= max(errors.values()) < bound
    line = ", ".join(f"{dtype} {max(value for name, value in errors.items() if name != 'bound'):.2g} (below "
                     f"{errors['bound']:g})" for dtype, errors in figures.items())
    return Outcome(passed, f"largest difference as a share of their norm: {line}", figures)


def _gradients_on(device: torch.device, config: Config, as_graph: bool = False) -> list[Tensor]:
    """The loss and its gradients for a fixed network and batch, on the CPU, float32."""
    torch.manual_seed(0)
    diffusion, batch = build_diffusion(config), _fixed_batch(config)
    with torch.no_grad():
        for weight in diffusion.parameters():       # zero at first, some layers would hide the gradients of others
            weight.add_(0.02 * torch.randn(weight.shape))
    diffusion = diffusion.to(device).train()
    weights = list(diffusion.parameters())
    inputs = {name: value.to(device) for name, value in batch.items()}

    def function(inputs: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        with autocast(device):
            loss = diffusion(**inputs)
        return loss.detach(), *torch.autograd.grad(loss * LOSS_SCALE, weights)
    if as_graph:
        graph = capture(function, inputs, device)
        if graph is None:
            raise RuntimeError("the step cannot be captured")
        results = graph(inputs)
    else:
        results = function(inputs)
    loss, *grads = (result.float().cpu().clone() for result in results)
    return [loss, *(grad / LOSS_SCALE for grad in grads)]


def _fixed_batch(config: Config) -> dict[str, Tensor]:
    """The arguments of the loss for a batch of one step, always the same, on the CPU."""
    size, side = config.train_batch_size * config.gradient_accumulate_every, config.latent_size
    generator = seeded(0)
    return {"img": torch.randn(size, config.latent_channels, side, side, generator=generator),
            "classes": torch.arange(size) % config.num_users, "t": torch.arange(size) * config.timesteps // size,
            "noise": torch.randn(size, config.latent_channels, side, side, generator=generator),
            "drop_mask": torch.arange(size) % 2 == 0}


def weights_after_20_steps(setting: Setting) -> Outcome:
    """The change of all weights in 20 steps on the same batches: graph against eager, half against float32."""
    before = weights_of(make_trainer(setting))

    def change(**options: Any) -> Tensor:
        trainer = make_trainer(setting, **options)
        for _ in range(NUM_STEPS):
            trainer.train_step()
        return weights_of(trainer) - before
    eager, half = change(graphs=False, amp=False), change(graphs=False)
    errors = {"half to float32": (difference(half, eager), MAX_UPDATE_ERROR_OF_HALF)}
    if setting.on_cuda:
        errors |= {"graph to eager in float32": (difference(change(amp=False), eager), MAX_UPDATE_ERROR),
                   "graph to eager in half": (difference(change(), half), MAX_UPDATE_ERROR)}
    return Outcome(all(error < bound for error, bound in errors.values()), "differences as a share of the change: "
                   + ", ".join(f"{name} {error:.2g} (below {bound:g})" for name, (error, bound) in errors.items()),
                   {name: error for name, (error, _) in errors.items()})


def milliseconds_per_step(setting: Setting) -> Outcome:
    """The default Config, with the parts of a fast step on and off."""
    forms = {"eager": {"graphs": False, "triton": False}, "graph": {"triton": False}, "graph + Triton": {}}
    if not setting.on_cuda:
        forms = {"eager": forms["eager"]}
    found = {name: time_steps(setting, **options) for name, options in forms.items()}
    best = min(value["ms"] for value in found.values())
    line = ", ".join(f"{name} {value['ms']:.3g} ms" for name, value in found.items())
    return Outcome(best > 0, f"{line}; 150 000 steps of the fastest take {150 * best / 60:.3g} minutes", found)


def time_steps(setting: Setting, **options: Any) -> dict[str, float]:
    """Median milliseconds of a training step; first_seconds: of the first steps, in which graphs are captured."""
    trainer = make_trainer(setting, **options)
    started = time.perf_counter()
    _run(trainer, setting.count(2 * WINDOW, 2))
    first = time.perf_counter() - started
    windows = []
    for _ in range(setting.count(20 if options.get("graphs", True) else 4, 1)):
        started = time.perf_counter()
        steps = setting.count(WINDOW, 2)
        _run(trainer, steps)
        windows.append((time.perf_counter() - started) / steps)
    return {"ms": 1000 * median(windows), "slowest_ms": 1000 * max(windows), "first_seconds": first}


def _run(trainer: Trainer, steps: int) -> None:
    """So many steps, until the device has finished them."""
    for _ in range(steps):
        loss, _ = trainer.train_step()
    loss.item()


def kernels_per_step(setting: Setting) -> Outcome:
    """By PyTorch's profiler: kernels per step, the milliseconds in which the device was busy, and the kernels that took
    most of them.
    """
    trainer = make_trainer(setting)
    _run(trainer, 2 * WINDOW)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profiler:
        started = time.perf_counter()
        _run(trainer, WINDOW)
        wall_ms = 1000 * (time.perf_counter() - started) / WINDOW
    by_name: dict[str, list[float]] = {}
    for event in profiler.events() or []:
        if event.device_type == DeviceType.CUDA and not getattr(event, "is_user_annotation", False):
            by_name.setdefault(event.name, []).append(event.time_range.elapsed_us())
    slowest = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:NUM_KERNELS_SHOWN]
    top = [{"kernel": name[:200], "us_per_step": sum(us) / WINDOW, "per_step": len(us) / WINDOW}
           for name, us in slowest]
    count, busy_ms = (sum(map(function, by_name.values())) / WINDOW for function in (len, sum))
    busy_ms /= 1000
    return Outcome(count > 0, f"{count:.0f} kernels and copies per step, device busy {busy_ms:.3g} of {wall_ms:.3g} ms",
                   {"kernels": count, "busy_ms": busy_ms, "wall_ms": wall_ms, "top": top})
