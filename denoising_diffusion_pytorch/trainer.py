"""The training step and its loop: gradient accumulation, mixed precision, clipping, EMA, several processes, and steps
whose gradients are not finite.
"""
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

from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion
from denoising_diffusion_pytorch.gradients import Batch, Gradients
from groundwork.device import half_precision
from groundwork.errors import InputError
from groundwork.progress import Progress
from groundwork.seeding import seeded
from groundwork.stopping import StopRequest

MAX_SKIPPED = 10            # after so many skipped steps in a row, the weights themselves are taken to be broken
MAX_SKIPPED_FLOAT16 = 40    # with float16: the scaler first halves its scale in every step, until nothing overflows
ASK_TO_STOP_EVERY = 10      # steps between two times when several processes ask each other whether to stop
ROLLBACK_LR_FACTOR = 0.25   # factor of the learning rate after going back to the last milestone
PROCESS_TIMEOUT = timedelta(hours=12)      # for one process that waits for another


def batch_indices(step: int, batch_size: int, num_items: int, seed: int) -> Tensor:
    """The items of training step `step`, (batch_size,) int64 on the CPU.

    Every epoch is a new permutation of all items. The next epoch follows without a gap, so a batch may contain items of
    both. The result depends only on the arguments.
    """
    positions = torch.arange(step * batch_size, (step + 1) * batch_size)
    epochs, offsets = positions // num_items, positions % num_items
    return torch.cat([_epoch_order(num_items, seed, epoch)[offsets[epochs == epoch]]
                      for epoch in epochs.unique().tolist()])


@lru_cache(maxsize=2)       # permuting a million items takes as long as a training step
def _epoch_order(num_items: int, seed: int, epoch: int) -> Tensor:
    """The random order of all items in an epoch, (num_items,) int64."""
    return torch.randperm(num_items, generator=seeded(seed, 0, epoch))


def choose_precision(amp: bool, device: torch.device) -> str:
    """accelerate's name of the precision: 'bf16', 'fp16' or 'no'."""
    return {None: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}[half_precision(device) if amp else None]


def init_distributed(device: torch.device) -> PartialState:
    """Set up the processes that train together. Often there is only this one. All but the main one stop printing.

    accelerate keeps the settings of the first call in a Python process. They are reset here, because a notebook may
    train several times.
    """
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        AcceleratorState._reset_state(reset_partial_state=True)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # While the main process encodes images and trains a classifier, the others wait longer than NCCL's ten minutes.
    processes = PartialState(cpu=device.type == "cpu", timeout=PROCESS_TIMEOUT)
    if not processes.is_main_process:
        sys.stdout = open(os.devnull, "w")
    return processes


class Recorder(Protocol):
    """What Trainer.train reports to, in the main process only."""

    def log(self, record: dict) -> None:
        """Called every log_every steps, with step, loss, grad_norm, lr, images_per_second, wall_time (seconds of
        training) and skipped_steps.
        """

    def milestone(self, milestone: int) -> None:
        """Called every milestone_every steps, and at the end. milestone: step / milestone_every, rounded up."""

    def save(self, milestone: int) -> None:
        """Called when training stops between two milestones. milestone: the number of the next one."""


class Trainer:
    """Trains a GaussianDiffusion on num_items items.

    get_batch(indices, generator) -> (x, classes) supplies the items with these indices, (b,) int64 on the CPU. x is
    (b, c, h, w), classes is (b,) int64, both on the generator's device.

    A step takes train_batch_size * gradient_accumulate_every items, over all processes together. Everything random in
    it is drawn for this global batch, from a generator on the device that is seeded by (seed, step). So a resumed run
    repeats an uninterrupted one, although a checkpoint contains no random state. The number of processes, and running
    out of memory, change the result by rounding only.

    A step whose gradients are not finite changes no weights and is counted. After MAX_SKIPPED of them in a row
    (with float16, MAX_SKIPPED_FLOAT16), training goes back to the last milestone and continues with ROLLBACK_LR_FACTOR
    times the learning rate. It does so once.
    """

    def __init__(self, diffusion: GaussianDiffusion, get_batch: Callable, num_items: int, *, train_batch_size: int,
                 gradient_accumulate_every: int, train_lr: float, adam_betas: tuple[float, float],
                 max_grad_norm: float, ema_decay: float, ema_update_every: int, amp: bool, seed: int,
                 device: torch.device, log_with: Sequence[str] = (), logging_folder: Path | None = None):
        """log_with: names of accelerate's trackers; the caller starts them later. They write to logging_folder.

        Raises InputError if the processes cannot share a step's items evenly.
        """
        init_distributed(device)
        self.accelerator = Accelerator(mixed_precision=choose_precision(amp, device), cpu=device.type == "cpu",
                                       log_with=list(log_with) or None, project_dir=logging_folder)
        self.global_batch = train_batch_size * gradient_accumulate_every
        if self.global_batch % self.accelerator.num_processes:
            raise InputError(f"train_batch_size x gradient_accumulate_every = {self.global_batch} cannot be shared out "
                             f"evenly among {self.accelerator.num_processes} processes")
        self.get_batch, self.num_items, self.seed, self.max_grad_norm = get_batch, num_items, seed, max_grad_norm
        self.diffusion = diffusion.to(self.accelerator.device).train()
        self.parameters = list(diffusion.parameters())
        self.device = self.parameters[0].device     # with an index, which accelerator.device may lack
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
        """One optimisation step. Returns (mean loss of this process's items, gradient norm before clipping), scalars on
        the device.
        """
        loss = self.gradients(self._local_batch())
        self._average_gradients()
        grad_norm = self.accelerator.clip_grad_norm_(self.parameters, self.max_grad_norm)
        self._skip_unless_finite(grad_norm)
        self.optimizer.step()
        self.ema.update()
        self.step += 1
        return loss, grad_norm

    def _local_batch(self) -> Batch:
        """The arguments of the loss for this process's part of the global batch."""
        generator = seeded(self.seed, 1, self.step, device=self.device)
        indices = batch_indices(self.step, self.global_batch, self.num_items, self.seed)
        x, classes = self.get_batch(indices, generator)
        size = self.global_batch // self.accelerator.num_processes
        first = size * self.accelerator.process_index
        return {name: value[first:first + size] for name, value in
                {"img": x, "classes": classes, **self.diffusion.random_loss_inputs(x.shape, generator)}.items()}

    def _backward(self, batch: Batch, fraction: float) -> Tensor:
        """Add the gradients of `fraction` times the batch's mean loss, and return that product."""
        with self.accelerator.autocast():
            loss = self.diffusion(**batch) * fraction
        self.accelerator.backward(loss)
        return loss.detach()

    def _skip_unless_finite(self, grad_norm: Tensor) -> None:
        """Skip and count a step whose gradient norm is not finite. All processes come to the same decision.

        The decision is made on the device, so that the CPU need not wait for it. With float16, the scaler skips such
        steps itself: an overflow there only counts for skipped_in_a_row.
        """
        is_broken = (~grad_norm.isfinite()).float()
        self.skipped_in_a_row.add_(1).mul_(is_broken)
        if self.accelerator.scaler is None:
            self.skipped += is_broken
            self.optimizer.optimizer.found_inf = is_broken      # a fused optimiser then changes nothing

    def _average_gradients(self) -> None:
        """Average the gradients over all processes, in one message. The network is small, and CUDA graphs leave no
        hooks for sending parts of the gradients earlier.
        """
        if self.accelerator.num_processes > 1:
            grads = self.gradients.grads
            mean = self.accelerator.reduce(torch.cat([grad.flatten() for grad in grads]), reduction="mean")
            for grad, part in zip(grads, mean.split([grad.numel() for grad in grads])):
                grad.copy_(part.view(grad.shape))

    def train(self, num_steps: int, *, log_every: int, milestone_every: int, recorder: Recorder | None,
              stop: StopRequest) -> str | None:
        """Train up to step num_steps, or until `stop` has a reason. Returns that reason; None at the end.

        recorder: None in all processes but the main one. Raises InputError if steps still fail after going back.
        """
        losses, logged_step, started = [], self.step, time.perf_counter()
        last_good, reason = copy.deepcopy(self.state_dict()), None
        with Progress(total=num_steps, initial=self.step, desc="training", unit="step", hidden=not recorder) as bar:
            while self.step < num_steps and not reason:
                loss, grad_norm = self.train_step()
                losses.append(loss)
                bar.update()
                at_end = self.step == num_steps
                is_milestone = at_end or self.step % milestone_every == 0
                is_time_to_log = at_end or self.step % log_every == 0
                reason = self._reason_to_stop(stop, is_time_to_log or self.step % ASK_TO_STOP_EVERY == 0)
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
                if (is_milestone or reason) and self._may_save(at_end or bool(reason)):
                    saving_since = time.perf_counter()
                    if recorder:
                        (recorder.milestone if is_milestone else recorder.save)(-(-self.step // milestone_every))
                    self.accelerator.wait_for_everyone()
                    last_good = copy.deepcopy(self.state_dict())
                    started += time.perf_counter() - saving_since     # the time of saving does not count
        return reason if self.step < num_steps else None

    def _may_save(self, is_last: bool) -> bool:
        """Whether to save now. While steps are being skipped, the weights may already be broken. is_last: save in any
        case.
        """
        allowed = 0 if self.accelerator.scaler is None else 2      # with float16, an overflow now and then is normal
        if is_last or self.skipped_in_a_row.item() <= allowed:
            return True
        print(f"step {self.step} is not saved: the gradients before it were not finite", flush=True)
        return False

    def _reason_to_stop(self, stop: StopRequest, is_time_to_ask: bool) -> str | None:
        """The reason to stop, if any. All processes must end at the same step. To ask each other takes time, so they do
        it only if is_time_to_ask.
        """
        if self.accelerator.num_processes == 1:
            return stop.reason
        if not is_time_to_ask:
            return None
        wishes = torch.tensor(float(stop.reason is not None), device=self.device)
        return (stop.reason or "another process stops") if self.accelerator.reduce(wishes).item() > 0 else None

    def _has_failed(self) -> bool:
        """Whether too many steps in a row were skipped."""
        allowed = MAX_SKIPPED if self.accelerator.scaler is None else MAX_SKIPPED_FLOAT16
        return self.skipped_in_a_row.item() >= allowed

    def _roll_back(self, last_good: dict) -> None:
        """Go back to last_good with a lower learning rate. Raises InputError if this was done before."""
        failed_at, lr = self.step, self.optimizer.param_groups[0]["lr"]
        cause = f"the gradients of {int(self.skipped_in_a_row)} steps in a row, up to step {failed_at}, were not finite"
        if self.has_rolled_back:
            saved, then = ((f"the checkpoint of step {last_good['step']} is whole", "go on with --resume latest")
                           if last_good["step"] else ("there is no checkpoint yet", "start again"))
            raise InputError(f"{cause}, at a learning rate of {lr:g} too; {saved}: look at the training images and at "
                             "the latents' range with test_vae_range.py, lower train_lr, or try --no_amp, then "
                             + then)
        self.load_state_dict(last_good)
        self.skipped_in_a_row.zero_()
        self.has_rolled_back = True
        self._lower_learning_rate()
        print(f"warning: {cause}: back to step {self.step}, on with a learning rate of {lr * ROLLBACK_LR_FACTOR:g}",
              flush=True)

    def _lower_learning_rate(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] *= ROLLBACK_LR_FACTOR

    def state_dict(self) -> dict:
        """Everything that resuming needs, as tensors and plain values."""
        scaler = self.accelerator.scaler
        return {"step": self.step, "seconds": self.seconds, "skipped_steps": int(self.skipped),
                "skipped_in_a_row": int(self.skipped_in_a_row), "has_rolled_back": self.has_rolled_back,
                "model": self.diffusion.state_dict(), "opt": self.optimizer.state_dict(), "ema": self.ema.state_dict(),
                "scaler": scaler.state_dict() if scaler is not None else None}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state_dict, with the optimiser settings of this Trainer."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.skipped.fill_(state.get("skipped_steps", 0))       # checkpoints of earlier versions lack these counts
        self.skipped_in_a_row.fill_(state.get("skipped_in_a_row", 0))
        self.diffusion.load_state_dict(state["model"])
        # The settings are this run's: constants may have been changed, and `fused` depends on the device.
        groups = [{**current, "params": saved["params"]}
                  for current, saved in zip(self.optimizer.param_groups, state["opt"]["param_groups"])]
        self.optimizer.load_state_dict({**state["opt"], "param_groups": groups})
        # Lower the rate again, unless train_lr was changed since.
        lowered_to = state["opt"]["param_groups"][0]["lr"]
        if state.get("has_rolled_back") and lowered_to == ROLLBACK_LR_FACTOR * groups[0]["lr"]:
            self.has_rolled_back = True
            self._lower_learning_rate()
        self.ema.load_state_dict(state["ema"])
        if self.accelerator.scaler is not None and state["scaler"]:     # None if it was trained in another precision
            self.accelerator.scaler.load_state_dict(state["scaler"])


def mean_of_finite(losses: list[Tensor]) -> Tensor:
    """The mean of the finite losses, a scalar; NaN if there are none. A skipped step should not hide the losses of the
    others.
    """
    all_losses = torch.stack(losses)
    return all_losses[all_losses.isfinite()].mean()
