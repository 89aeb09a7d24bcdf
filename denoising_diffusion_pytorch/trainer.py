"""The training step and its loop: gradient accumulation, mixed precision, clipping, EMA, several processes, and steps
whose gradients are not finite.
"""
import time
from functools import lru_cache
from pathlib import Path
from typing import Any, Callable, Protocol, Sequence

import torch
from accelerate import Accelerator
from torch import Tensor

from denoising_diffusion_pytorch.checkpoint import EMA_PREFIX, ema_unet_weights
from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion
from denoising_diffusion_pytorch.gradients import Batch, Gradients
from denoising_diffusion_pytorch.weight_update import WeightUpdate
from groundwork.cuda_graph import Graphed, Inputs
from groundwork.device import autocast, convolution_format, half_precision, in_memory_format
from groundwork.errors import InputError
from groundwork.processes import average_over_processes, init_distributed
from groundwork.progress import Progress
from groundwork.seeding import derive_seed, seeded
from groundwork.stopping import StopRequest
from groundwork.threads import AdaptiveThreads

MAX_SKIPPED = 10            # after so many skipped steps in a row, the weights themselves are taken to be broken
MAX_SKIPPED_FLOAT16 = 40    # with float16: the loss scale is first halved in every step, until nothing overflows
ASK_TO_STOP_EVERY = 10      # steps between two times when several processes ask each other whether to stop
ROLLBACK_LR_FACTOR = 0.25   # factor of the learning rate after going back to the last milestone


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

    get_batch(indices, generator) -> (x, classes) supplies the items with these indices, (b,) int64. x is (b, c, h, w),
    classes is (b,) int64, both on the generator's device. The indices are on the CPU, or with draws_on_device on the
    device; then the CPU must not have to wait for it.

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
                 device: torch.device, draws_on_device: bool = False, log_with: Sequence[str] = (),
                 logging_folder: Path | None = None):
        """log_with: names of accelerate's trackers; the caller starts them later. They write to logging_folder.

        Raises InputError if the processes cannot share a step's items evenly.
        """
        init_distributed(device)
        self.accelerator = Accelerator(mixed_precision="no", cpu=device.type == "cpu", log_with=list(log_with) or None,
                                       project_dir=logging_folder)
        self.global_batch = train_batch_size * gradient_accumulate_every
        if self.global_batch % self.accelerator.num_processes:
            raise InputError(f"train_batch_size x gradient_accumulate_every = {self.global_batch} cannot be shared out "
                             f"evenly among {self.accelerator.num_processes} processes")
        self.get_batch, self.num_items, self.seed, self.amp, self.train_lr = get_batch, num_items, seed, amp, train_lr
        diffusion.to(self.accelerator.device)
        self.diffusion = in_memory_format(diffusion, convolution_format(self.accelerator.device)).train()
        self.device = next(diffusion.parameters()).device     # with an index, which accelerator.device may lack
        self.weights = WeightUpdate(diffusion, lr=train_lr, betas=adam_betas, max_grad_norm=max_grad_norm,
                                    ema_decay=ema_decay, ema_update_every=ema_update_every,
                                    half_precision=half_precision(self.device) if amp else None)
        self.generator = torch.Generator(self.device)
        self.draw = Graphed(self._draw, self.device, generators=[self.generator], enabled=draws_on_device,
                            or_eager=True)
        self.gradients = Gradients(self._loss, self.weights)
        self.step, self.seconds = 0, 0.0
        self.has_rolled_back = False

    @property
    def ema_model(self) -> Any:
        """The GaussianDiffusion with the averaged weights (EMA)."""
        return self.weights.ema_model

    def train_step(self) -> tuple[Tensor, Tensor]:
        """One optimisation step. Returns (mean loss of this process's items, gradient norm before clipping), scalars on
        the device. The next step may overwrite the norm.
        """
        self.generator.manual_seed(derive_seed(self.seed, 1, self.step))
        batch = self.draw({"indices": batch_indices(self.step, self.global_batch, self.num_items, self.seed)})
        loss = self.gradients(batch)
        average_over_processes([self.weights.grads])
        grad_norm = self.weights(self.step)
        self.step += 1
        return loss, grad_norm

    def _draw(self, inputs: Inputs) -> Batch:
        """The arguments of the loss for this process's part of the global batch. inputs: indices (b,) int64."""
        x, classes = self.get_batch(inputs["indices"], self.generator)
        size = self.global_batch // self.accelerator.num_processes
        first = size * self.accelerator.process_index
        return {name: value[first:first + size] for name, value in
                {"img": x, "classes": classes, **self.diffusion.random_loss_inputs(x.shape, self.generator)}.items()}

    def _loss(self, batch: Batch) -> Tensor:
        """The mean loss of a micro-batch."""
        with autocast(self.device, self.amp):
            return self.weights.network(**batch)

    def train(self, num_steps: int, *, log_every: int, milestone_every: int, recorder: Recorder | None,
              stop: StopRequest) -> str | None:
        """Train up to step num_steps, or until `stop` has a reason. Returns that reason; None at the end.

        recorder: None in all processes but the main one. Raises InputError if steps still fail after going back.
        """
        losses, logged_step, started = [], self.step, time.perf_counter()
        last_good, reason = self.state_dict(), None
        with (AdaptiveThreads(self.device) as threads,
              Progress(total=num_steps, initial=self.step, desc="training", unit="step", hidden=not recorder) as bar):
            while self.step < num_steps and not reason:
                with threads.step():
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
                              "lr": self.weights.lr,
                              "images_per_second": (self.step - logged_step) * self.global_batch / seconds,
                              "wall_time": self.seconds, "skipped_steps": int(self.weights.skipped)}
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
                    last_good = self.state_dict()
                    started += time.perf_counter() - saving_since     # the time of saving does not count
        return reason if self.step < num_steps else None

    def _may_save(self, is_last: bool) -> bool:
        """Whether to save now. While steps are being skipped, the weights may already be broken. is_last: save in any
        case.
        """
        allowed = 0 if not self.weights.has_loss_scale else 2      # with float16, an overflow now and then is normal
        if is_last or self.weights.skipped_in_a_row.item() <= allowed:
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
        allowed = MAX_SKIPPED if not self.weights.has_loss_scale else MAX_SKIPPED_FLOAT16
        return self.weights.skipped_in_a_row.item() >= allowed

    def _roll_back(self, last_good: dict) -> None:
        """Go back to last_good with a lower learning rate. Raises InputError if this was done before."""
        failed_at, lr = self.step, self.weights.lr
        skipped = int(self.weights.skipped_in_a_row)
        cause = f"the gradients of {skipped} steps in a row, up to step {failed_at}, were not finite"
        if self.has_rolled_back:
            saved, then = ((f"the checkpoint of step {last_good['step']} is whole", "go on with --resume latest")
                           if last_good["step"] else ("there is no checkpoint yet", "start again"))
            raise InputError(f"{cause}, at a learning rate of {lr:g} too; {saved}: look at the training images and at "
                             "the latents' range with test_vae_range.py, lower train_lr, or try --no_amp, then "
                             + then)
        self.load_state_dict(last_good)
        self.weights.skipped_in_a_row.zero_()
        self.has_rolled_back = True
        self._lower_learning_rate()
        print(f"warning: {cause}: back to step {self.step}, on with a learning rate of {lr * ROLLBACK_LR_FACTOR:g}",
              flush=True)

    def _lower_learning_rate(self) -> None:
        self.weights.set_lr(ROLLBACK_LR_FACTOR * self.weights.lr)

    def state_dict(self) -> dict:
        """Everything that resuming needs, as tensors and plain values."""
        return {"step": self.step, "seconds": self.seconds, "skipped_steps": int(self.weights.skipped),
                "skipped_in_a_row": int(self.weights.skipped_in_a_row), "has_rolled_back": self.has_rolled_back,
                "model": _cloned(self.diffusion.state_dict()), "opt": self.weights.optimizer_state(),
                "ema": _cloned({EMA_PREFIX + name: value for name, value in self.ema_model.model.state_dict().items()}),
                "scaler": self.weights.scaler_state()}

    def load_state_dict(self, state: dict) -> None:
        """Go on from a state_dict, with the optimiser settings of this Trainer."""
        self.step, self.seconds = state["step"], state["seconds"]
        self.weights.skipped.fill_(state.get("skipped_steps", 0))       # checkpoints of earlier versions lack these
        self.weights.skipped_in_a_row.fill_(state.get("skipped_in_a_row", 0))
        self.diffusion.load_state_dict(state["model"])
        self.ema_model.model.load_state_dict(ema_unet_weights(state))
        self.weights.refresh()
        self.weights.load_optimizer_state(state["opt"])
        self.weights.load_scaler_state(state["scaler"])
        self.weights.set_lr(self.train_lr)
        # Lower the rate again, unless train_lr was changed since.
        lowered_to = state["opt"]["param_groups"][0]["lr"]
        if state.get("has_rolled_back") and lowered_to == ROLLBACK_LR_FACTOR * self.train_lr:
            self.has_rolled_back = True
            self._lower_learning_rate()


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies that do not share the flat buffer."""
    return {name: value.clone() for name, value in tensors.items()}


def mean_of_finite(losses: list[Tensor]) -> Tensor:
    """The mean of the finite losses, a scalar; NaN if there are none. A skipped step should not hide the losses of the
    others.
    """
    all_losses = torch.stack(losses)
    return all_losses[all_losses.isfinite()].mean()
