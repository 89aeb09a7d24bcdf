"""What a training step does to the weights: clipping, Adam and the moving average, each on all weights at once."""
import copy

import torch
from torch import Tensor, nn

from denoising_diffusion_pytorch.flat import FlatLayout
from groundwork.cuda_graph import Graphed, Inputs, set_lr

EMA_START, EMA_POWER = 100, 2 / 3       # steps in which the average is a copy, and how fast its decay rises after them
FIRST_SCALE, GROWTH_INTERVAL = 2.0 ** 16, 2000      # of the float16 loss, as in torch.amp.GradScaler


def ema_decay_at(step: int, highest: float) -> float:
    """The decay of the averaged weights in step 0, 1, …: 1 - (1 + step - 100)^(-2/3), and at most `highest`.

    So the average follows the weights closely while they still change fast. Up to step 100 it is a copy.
    """
    return min(highest, 1 - (1 + step - EMA_START) ** -EMA_POWER) if step > EMA_START else 0.0


class WeightUpdate:
    """The weights of a network with their gradients, Adam's moments and their average, in one flat buffer each.

    grads: (n,) float32, in the order of `layout`: set them, times `loss_scale`, before each call.
    network: what gradients are computed with. With half precision, a twin with weights in this precision.
    ema_model: the network with the averaged weights (EMA).
    loss_scale: scalar: against underflow of float16 gradients (Micikevicius et al. 2018, section 3.2); else 1.
    skipped, skipped_in_a_row: scalars: steps without an update, because a gradient was not finite.
    """

    def __init__(self, network: nn.Module, *, lr: float, betas: tuple[float, float], max_grad_norm: float,
                 ema_decay: float, ema_update_every: int, half_precision: torch.dtype | None):
        self.max_grad_norm, self.ema_decay, self.ema_update_every = max_grad_norm, ema_decay, ema_update_every
        device, self.layout = next(network.parameters()).device, FlatLayout(network)
        self.weights, self.grads, self.average, self.exp_avg, self.exp_avg_sq = (
            torch.zeros(self.layout.size, device=device) for _ in range(5))
        self.ema_model = copy.deepcopy(network).requires_grad_(False).eval()
        self.layout.move_into(self.weights, network)
        self.layout.move_into(self.average, self.ema_model)
        self.half = self.weights[:self.layout.half_size].to(half_precision or torch.float32, copy=True)
        self.network = self.layout.half_precision_twin(network, self.half) if half_precision else network
        self.has_loss_scale = half_precision == torch.float16
        self.loss_scale = torch.tensor(FIRST_SCALE if self.has_loss_scale else 1.0, device=device)
        self.steps_since_growth, self.skipped, self.skipped_in_a_row, self.num_updates = (
            torch.zeros((), device=device) for _ in range(4))
        self.lr, self.betas, is_cuda = lr, betas, device.type == "cuda"
        # On CUDA a tensor: a number would become part of the graph.
        self.optimizer = torch.optim.Adam([self.weights], lr=torch.tensor(lr, device=device) if is_cuda else lr,
                                          betas=betas, fused=True, capturable=is_cuda)
        self.optimizer.state[self.weights] = {"step": self.num_updates, "exp_avg": self.exp_avg,
                                              "exp_avg_sq": self.exp_avg_sq}
        state = [self.weights, self.half, self.grads, self.average, self.exp_avg, self.exp_avg_sq, self.loss_scale,
                 self.steps_since_growth, self.skipped, self.skipped_in_a_row, self.num_updates]
        self.update = Graphed(self._update, device, state=state, or_eager=True)
        self.update_with_average = Graphed(self._update_with_average, device, state=state, or_eager=True)

    def __call__(self, step: int) -> Tensor:
        """Update the weights in training step `step`. Returns the norm of the gradients before clipping, a scalar."""
        if step % self.ema_update_every:
            return self.update({})
        share = 1 - ema_decay_at(step, self.ema_decay)
        return self.update_with_average({"share": torch.tensor(share, dtype=torch.float32)})

    def set_lr(self, lr: float) -> None:
        """Change the learning rate."""
        self.lr = lr
        set_lr(self.optimizer, lr)

    def refresh(self) -> None:
        """Call it after the weights were changed from outside."""
        self.half.copy_(self.weights[:len(self.half)])

    @torch.no_grad()
    def _update(self, inputs: Inputs) -> Tensor:
        """The update without the average. A step whose gradients are not finite changes no weights.

        That is decided on the device, so that the CPU need not wait for it.
        """
        norm = torch.linalg.vector_norm(self.grads) / self.loss_scale
        is_broken = (~norm.isfinite()).float()
        factor = (self.max_grad_norm / (norm + 1e-6)).clamp(max=1) / self.loss_scale
        self.grads.mul_(factor.nan_to_num(0.0))     # NaN would stay in the gaps between the parameters
        self.weights.grad = self.grads
        setattr(self.optimizer, "found_inf", is_broken)      # a fused optimiser then changes nothing
        self.optimizer.step()
        self.refresh()
        self.skipped_in_a_row.add_(1).mul_(is_broken)
        if self.has_loss_scale:     # overflow is normal there, and halves the scale
            self._adapt_loss_scale(is_broken)
        else:
            self.skipped += is_broken
        return norm

    def _update_with_average(self, inputs: Inputs) -> Tensor:
        norm = self._update(inputs)
        self.average.lerp_(self.weights.detach(), inputs["share"])
        return norm

    def _adapt_loss_scale(self, is_broken: Tensor) -> None:
        """Halve the scale after an overflow; double it after GROWTH_INTERVAL steps without one."""
        self.steps_since_growth.add_(1).mul_(1 - is_broken)
        grows = (self.steps_since_growth >= GROWTH_INTERVAL).float()
        self.steps_since_growth.mul_(1 - grows)
        self.loss_scale.mul_((1 - 0.5 * is_broken) * (1 + grows))

    def optimizer_state(self) -> dict:
        """Adam's state in the form of torch.optim.Adam's state_dict, with an entry for each parameter."""
        moments = [self.layout.views(buffer) for buffer in (self.exp_avg, self.exp_avg_sq)]
        state = {i: {"step": self.num_updates.clone(), "exp_avg": moments[0][name].clone(),
                     "exp_avg_sq": moments[1][name].clone()} for i, name in enumerate(self.layout.parameters)}
        return {"state": state, "param_groups": [{"lr": self.lr, "betas": self.betas,
                                                  "params": list(range(len(state)))}]}

    def load_optimizer_state(self, content: dict) -> None:
        """Set Adam's state from the state_dict of a torch.optim.Adam. The learning rate stays as it is."""
        state = content["state"]        # empty before the first step
        self.num_updates.fill_(float(state[0]["step"]) if state else 0.0)
        for buffer, key in ((self.exp_avg, "exp_avg"), (self.exp_avg_sq, "exp_avg_sq")):
            buffer.zero_()
            views = list(self.layout.views(buffer).values())
            for i, entry in state.items():
                views[i].copy_(entry[key])

    def scaler_state(self) -> dict | None:
        """The loss scale in the form of torch.amp.GradScaler's state_dict; None without one."""
        return {"scale": self.loss_scale.item(), "growth_factor": 2.0, "backoff_factor": 0.5,
                "growth_interval": GROWTH_INTERVAL,
                "_growth_tracker": int(self.steps_since_growth)} if self.has_loss_scale else None

    def load_scaler_state(self, content: dict | None) -> None:
        """Set the loss scale from a GradScaler's state_dict. None or empty: trained in another precision."""
        if self.has_loss_scale and content:
            self.loss_scale.fill_(content["scale"])
            self.steps_since_growth.fill_(content["_growth_tracker"])
