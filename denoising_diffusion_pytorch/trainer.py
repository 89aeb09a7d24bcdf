"""The training step and its loop: accumulation, mixed precision, clipping, EMA, several processes, bad numbers."""
import copy
import os
import sys
import time
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Callable, Protocol, Sequence

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from ema_pytorch import EMA
from torch import Tensor
from tqdm import tqdm

from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion
from denoising_diffusion_pytorch.gradients import Batch, Gradients
from groundwork.device import half_precision
from groundwork.errors import InputError
from groundwork.seeding import seeded
from groundwork.stopping import StopRequest

MOST_SKIPPED = 10               # steps in a row, after which the weights themselves are taken for spoilt
MOST_SKIPPED_BY_SCALER = 40     # with float16 it first looks for a scale that does not overflow, halving every time
ASK_EVERY = 10                  # steps between two times that several processes ask each other whether to stop
LR_FACTOR = 0.25                # of the learning rate, once rolled back
LONGEST_WAIT = timedelta(hours=12)      # of one process for another


def batch_indices(step: int, batch_size: int, num_items: int, seed: int) -> Tensor:
    """The items of training step `step`, (batch_size,) int64: every epoch is a fresh permutation, and epochs follow
    each other without a gap, so that the order depends on nothing but the arguments.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = positions // num_items, positions % num_items
    return torch.cat([_epoch_order(num_items, seed, epoch)[places[epochs == epoch]]
                      for epoch in epochs.unique().tolist()])


@lru_cache(maxsize=2)       # a million items take as long to permute as a step
def _epoch_order(num_items: int, seed: int, epoch: int) -> Tensor:
    return torch.randperm(num_items, generator=seeded(seed, 0, epoch))


def choose_precision(amp: bool, device: torch.device) -> str:
    """accelerate's name of the precision: 'bf16', 'fp16' or 'no'."""
    return {None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[half_precision(device) if amp else None]


def join_processes(device: torch.device) -> PartialState:
    """The processes that train together, often just this one; only the main one is heard on standard output.

    accelerate keeps the first settings of a Python process for good, but a notebook trains more than once.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # The others wait while the main one encodes images and trains a classifier, longer than NCCL's ten minutes.
    processes = PartialState(cpu=device.type == "cpu", timeout=LONGEST_WAIT)
    if not processes.is_main_process:
        sys.stdout = open(os.devnull, "w")
    return processes


class Recorder(Protocol):
    """What Trainer.train reports to, in the main process."""

    def log(self, record: dict) -> None:
        """Every log_every steps: step, loss, grad_norm, lr, images_per_second, wall_time in seconds of training."""

    def milestone(self, milestone: int) -> None:
        """Every milestone_every steps, and at the end: step / milestone_every, rounded up."""

    def save(self, milestone: int) -> None:
        """When training is to stop before the next milestone, whose number this is."""


class Trainer:
    """Trains a GaussianDiffusion on items that draw_batch(indices (b,) on the CPU, generator) -> (x (b, c, h, w),
    classes (b,)) hands out on the generator's device.

    A step takes train_batch_size * gradient_accumulate_every items, over all processes together. Everything random in
    it is drawn for that global batch from a generator on the device, seeded by (seed, step): a resumed run repeats an
    uninterrupted one without any random state in the checkpoint. The number of processes changes it by rounding only,
    and so does running out of memory.

    A step whose gradients are not finite changes no weight and is counted; after MOST_SKIPPED of them in a row training
    goes back to the last milestone with LR_FACTOR of the learning rate, once.
    """

    def __init__(self, diffusion: GaussianDiffusion, draw_batch: Callable, num_items: int, *, train_batch_size: int,
                 gradient_accumulate_every: int, train_lr: float, adam_betas: tuple[float, float],
                 max_grad_norm: float, ema_decay: float, ema_update_every: int, amp: bool, seed: int,
                 device: torch.device, log_with: Sequence[str] = (), logging_folder: Path | None = None):
        """log_with: names of accelerate's trackers, which are still to be started; they write to logging_folder."""
        join_processes(device)
        self.accelerator = Accelerator(mixed_precision=choose_precision(amp, device), cpu=device.type == "cpu",
                                       log_with=list(log_with) or None, project_dir=logging_folder)
        self.global_batch = train_batch_size * gradient_accumulate_every
        if self.global_batch % self.accelerator.num_processes:
            raise InputError(f"train_batch_size x gradient_accumulate_every = {self.global_batch} cannot be shared out "
                             f"evenly among {self.accelerator.num_processes} processes")
        self.draw_batch, self.num_items, self.seed, self.max_grad_norm = draw_batch, num_items, seed, max_grad_norm
        self.diffusion = diffusion.to(self.accelerator.device).train()
        self.parameters = list(diffusion.parameters())
        self.device = self.parameters[0].device     # with its number, which accelerator.device may lack
        self.ema = EMA(self.diffusion, beta=ema_decay, update_every=ema_update_every, include_online_model=False,
                       use_foreach=True)
        self.ema.ema_model.eval()
        optimizer = torch.optim.Adam(self.parameters, lr=train_lr, betas=adam_betas, fused=True)
        self.optimizer = self.accelerator.prepare(optimizer)
        self.gradients = Gradients(self._backward, self.parameters)
        self.step, self.seconds = 0, 0.0
        self.skipped, self.skipped_in_a_row = torch.zeros(2, device=self.device)
        self.has_rolled_back = False

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimisation step → (mean loss of this process's share, gradient norm before clipping), on the device."""
        loss = self.gradients(self._draw_share())
        self._average_gradients()
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self._skip_unless_finite(grad_norm)
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return loss, grad_norm

    def _draw_share(self) -> Batch:
        """What the loss takes, of the global batch the part that is this process's."""
        generator = seeded(self.seed, 1, self.step, device=self.device)
        indices = batch_indices(self.step, self.global_batch, self.num_items, self.seed)
        x, classes = self.draw_batch(indices, generator)
        share = self.global_batch // self.accelerator.num_processes
        first = share * self.accelerator.process_index
        return {name: value[first:first + share] for name, value in
                {"img": x, "classes": classes, **self.diffusion.draw(x.shape, generator)}.items()}

    def _backward(self, batch: Batch, share: float) -> Tensor:
        with self.accelerator.autocast():
            loss = self.diffusion(**batch) * share
        self.accelerator.backward(loss)
        return loss.detach()

    def _skip_unless_finite(self, grad_norm: Tensor) -> None:
        """Decided and counted on the device, which nobody waits for; the same in all processes. An overflow of float16
        is the scaler's business, and counts only as one of many in a row."""
        is_broken = (~grad_norm.isfinite()).float()
        self.skipped_in_a_row.add_(1).mul_(is_broken)
        if self.accelerator.scaler is None:
            self.skipped += is_broken
            self.optimizer.optimizer.found_inf = is_broken      # a fused optimiser then leaves everything as it is

    def _average_gradients(self) -> None:
        """Over the processes, by one message: the network is small, and a graph leaves no hooks to send it in parts."""
        if self.accelerator.num_processes > 1:
            grads = self.gradients.grads
            mean = self.accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="mean")
            for grad, part in zip(grads, mean.split([grad.numel() for grad in grads])):
                grad.copy_(part.view(grad.shape))

    def train(self, num_steps: int, *, log_every: int, milestone_every: int, recorder: Recorder | None,
              stop: StopRequest) -> str | None:
        """Train up to step num_steps, or until `stop` has a reason, which is then returned.

        The main process has a recorder, the others None. Raises InputError when steps keep failing.
        """
        losses, logged_step, started = [], self.step, time.perf_counter()
        last_good, reason = copy.deepcopy(self.state_dict()), None
        with tqdm(total=num_steps, initial=self.step, desc="training", unit="step",
                  disable=None if recorder else True) as bar:
            while self.step < num_steps and not reason:
                loss, grad_norm = self.train_step()
                losses.append(loss)
                bar.update()
                at_end = self.step == num_steps
                is_milestone = at_end or self.step % milestone_every == 0
                is_time_to_log = at_end or self.step % log_every == 0
                reason = self._reason_to_stop(stop, is_time_to_log or self.step % ASK_EVERY == 0)
                if is_time_to_log or reason:
                    mean_loss = self.accelerator.reduce(mean_of_finite(losses), reduction="mean").item()
                    seconds = time.perf_counter() - started
                    self.seconds += seconds
                    record = {"step": self.step, "loss": mean_loss, "grad_norm": float(grad_norm),
                              "lr": self.optimizer.param_groups[0]["lr"],
                              "images_per_second": (self.step - logged_step) * self.global_batch / seconds,
                              "wall_time": self.seconds, "skipped_steps": int(self.skipped)}
                    if recorder:
                        recorder.log(record)
                    bar.set_postfix(loss=f"{mean_loss:.4f}", images_per_s=f"{record['images_per_second']:.0f}")
                    if self._has_failed():
                        self._roll_back(last_good)
                        bar.update(self.step - bar.n)
                        is_milestone, reason = False, None
                    losses, logged_step, started = [], self.step, time.perf_counter()
                if (is_milestone or reason) and self._is_sound(at_end or bool(reason)):
                    paused = time.perf_counter()
                    if recorder:
                        (recorder.milestone if is_milestone else recorder.save)(-(-self.step // milestone_every))
                    self.accelerator.wait_for_everyone()
                    last_good = copy.deepcopy(self.state_dict())
                    started += time.perf_counter() - paused     # neither speed nor time of training
        return reason if self.step < num_steps else None

    def _is_sound(self, is_last: bool) -> bool:
        """Whether to save: amid steps that fail, the weights may be spoilt already."""
        most = 0 if self.accelerator.scaler is None else 2      # float16 overflows now and then
        if is_last or self.skipped_in_a_row.item() <= most:
            return True
        print(f"step {self.step} is not saved: the gradients before it were not finite", flush=True)
        return False

    def _reason_to_stop(self, stop: StopRequest, is_time_to_ask: bool) -> str | None:
        """All processes must end at the same step, and to ask each other takes time."""
        if self.accelerator.num_processes == 1:
            return stop.reason
        if not is_time_to_ask:
            return None
        wishes = torch.tensor(float(stop.reason is not None), device=self.device)
        return (stop.reason or "another process stops") if self.accelerator.reduce(wishes).item() > 0 else None

    def _has_failed(self) -> bool:
        most = MOST_SKIPPED if self.accelerator.scaler is None else MOST_SKIPPED_BY_SCALER
        return self.skipped_in_a_row.item() >= most

    def _roll_back(self, last_good: dict) -> None:
        failed_at, lr = self.step, self.optimizer.param_groups[0]["lr"]
        what = f"the gradients of {int(self.skipped_in_a_row)} steps in a row, up to step {failed_at}, were not finite"
        if self.has_rolled_back:
            raise InputError(f"{what}, at a learning rate of {lr:g} too; the last checkpoint is whole: look at the "
                             "training images and at latents' range with test_vae_range.py, lower train_lr, or try "
                             "--no_amp, then go on with --resume latest")
        self.load_state_dict(last_good)
        self.skipped_in_a_row.zero_()
        self.has_rolled_back = True
        self._lower_learning_rate()
        print(f"warning: {what}: back to step {self.step}, on with a learning rate of {lr * LR_FACTOR:g}", flush=True)

    def _lower_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= LR_FACTOR

    def state_dict(self) -> dict:
        """All that resuming needs, as tensors and plain values."""
        scaler = self.accelerator.scaler
        return {"step": self.step, "seconds": self.seconds, "skipped_steps": int(self.skipped),
                "skipped_in_a_row": int(self.skipped_in_a_row), "has_rolled_back": self.has_rolled_back,
                "model": self.diffusion.state_dict(), "opt": self.optimizer.state_dict(), "ema": self.ema.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None}

    def load_state_dict(self, state: dict) -> None:
        self.step, self.seconds = state["step"], state["seconds"]
        self.skipped.fill_(state.get("skipped_steps", 0))       # checkpoints of earlier versions counted nothing
        self.skipped_in_a_row.fill_(state.get("skipped_in_a_row", 0))
        self.diffusion.load_state_dict(state["model"])
        # Constants may have been changed on purpose, and how Adam is computed is no matter of the checkpoint.
        groups = [{**today, "params": saved["params"]}
                  for today, saved in zip(self.optimizer.param_groups, state["opt"]["param_groups"])]
        self.optimizer.load_state_dict({**state["opt"], "param_groups": groups})
        lowered_to = state["opt"]["param_groups"][0]["lr"]
        if state.get("has_rolled_back") and lowered_to == LR_FACTOR * groups[0]["lr"]:       # not chosen anew since
            self.has_rolled_back = True
            self._lower_learning_rate()
        self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None and state["scaler"]:     # None when it was trained in another precision
            self.accelerator.scaler.load_state_dict(state["scaler"])


def mean_of_finite(losses: list[Tensor]) -> Tensor:
    """NaN when none is; a step that was skipped should not hide what the others found."""
    all_losses = torch.stack(losses)
    return all_losses[all_losses.isfinite()].mean()
