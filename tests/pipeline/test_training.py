"""The trainer: learning, accumulation, resuming, broken batches, stopping."""
import copy
import math
import pickle
import time

import pytest
import torch
from ema_pytorch import EMA

from denoising_diffusion_pytorch import GaussianDiffusion, Unet, trainer as trainer_module
from denoising_diffusion_pytorch.trainer import Trainer, batch_indices
from groundwork import device as device_of
from groundwork.errors import InputError
from groundwork.files import load_tensors, save_tensors
from groundwork.seeding import derive_seed
from groundwork.stopping import StopRequest

DATA = torch.tensor([1.0, -1.0]).repeat(5).view(10, 1, 1, 1).expand(10, 2, 8, 8).contiguous()     # by class


def make_trainer(**changes):
    torch.manual_seed(0)
    diffusion = GaussianDiffusion(Unet(8, 2, dim_mults=(1, 2), channels=2, attn_dim_head=8, attn_heads=2), image_size=8)
    settings = {"train_batch_size": 4, "gradient_accumulate_every": 2, "train_lr": 1e-3, "adam_betas": (0.9, 0.99),
                "max_grad_norm": 1.0, "ema_decay": 0.9, "ema_update_every": 2, "amp": True, "seed": 7,
                "device": torch.device("cpu")} | changes
    def get_batch(indices, generator):
        return DATA[indices] + 0.1 * torch.randn(len(indices), 2, 8, 8, generator=generator), indices % 2
    return Trainer(diffusion, get_batch, len(DATA), **settings)


class Kept:
    """A recorder that keeps what it gets; each milestone takes some seconds."""

    def __init__(self, seconds=0.0):
        self.records, self.milestones, self.seconds = [], [], seconds

    def log(self, record):
        self.records.append(record)

    def milestone(self, milestone):
        time.sleep(self.seconds)
        self.milestones.append(milestone)

    def save(self, milestone):
        self.milestones.append(f"{milestone}, early")


def run(trainer, num_steps, milestone_every=100):
    kept = Kept()
    trainer.train(num_steps, log_every=1, milestone_every=milestone_every, recorder=kept, stop=StopRequest())
    return kept.records, kept.milestones


def weights(trainer):
    return torch.cat([p.flatten() for p in (*trainer.diffusion.parameters(), *trainer.ema_model.parameters())])


def test_every_epoch_is_a_permutation_and_epochs_join_without_a_gap():
    order = torch.cat([batch_indices(step, 4, 10, seed=3) for step in range(10)]).tolist()
    epochs = [order[i:i + 10] for i in range(0, 40, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 4
    assert batch_indices(0, 4, 10, seed=4).tolist() != order[:4]
    assert sorted(batch_indices(0, 25, 10, seed=3).tolist()).count(0) in (2, 3)     # a batch of over two epochs


def test_derived_seeds_differ_for_neighbours_and_fit_a_generator():
    seeds = {derive_seed(a, b) for a in range(30) for b in range(30)}
    assert len(seeds) == 900 and all(0 <= seed < 2 ** 63 for seed in seeds)


def test_training_lowers_the_loss():
    records, _ = run(make_trainer(), 60)
    first, last = (sum(record["loss"] for record in part) / 10 for part in (records[:10], records[-10:]))
    assert last < 0.7 * first


def test_a_step_is_of_the_whole_batch_however_much_of_it_fits_in_memory(monkeypatch):
    whole, in_parts = make_trainer(amp=False), make_trainer(amp=False)
    run(whole, 1)
    forward = GaussianDiffusion.forward

    def short_of_memory(self, img, **kwargs):
        if len(img) > 3:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return forward(self, img, **kwargs)
    monkeypatch.setattr(GaussianDiffusion, "forward", short_of_memory)
    run(in_parts, 1)
    assert in_parts.gradients.parts.size == 2
    ours, theirs = whole.weights.grads, in_parts.weights.grads
    assert (ours - theirs).norm() < 1e-5 * ours.norm()


@pytest.fixture(params=[None, torch.bfloat16, torch.float16])
def half(request, monkeypatch):
    """What mixed precision is in; any CPU can compute in these types, if slowly."""
    for module in (device_of, trainer_module):
        monkeypatch.setattr(module, "half_precision", lambda device: request.param)
    return request.param


def test_memory_that_runs_out_in_half_precision_leaves_nothing_behind(half, monkeypatch):
    """Autocast is left, and the next step sees the weights as they are then, not casts of earlier ones."""
    trainer, usual, forward = make_trainer(), make_trainer(), GaussianDiffusion.forward

    def short_of_memory(self, img, **kwargs):
        loss = forward(self, img, **kwargs)
        if len(img) > 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB.")
        return loss
    monkeypatch.setattr(GaussianDiffusion, "forward", short_of_memory)
    losses = [trainer.train_step()[0] for _ in range(12)]
    assert trainer.gradients.parts.size == 4 and not torch.is_autocast_enabled("cpu")
    monkeypatch.setattr(GaussianDiffusion, "forward", forward)
    expected = [usual.train_step()[0] for _ in range(12)]
    torch.testing.assert_close(torch.stack(losses), torch.stack(expected), rtol=0.02, atol=0)
    assert losses[-1] < 0.97 * losses[0]


def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(half, tmp_path):
    whole = make_trainer()
    run(whole, 9)
    first = make_trainer()
    run(first, 4)
    save_tensors(tmp_path / "model-1.pt", first.state_dict())
    second = make_trainer()
    second.load_state_dict(load_tensors(tmp_path / "model-1.pt"))
    assert second.step == 4
    run(second, 9)
    assert torch.equal(weights(whole), weights(second))


def test_gradients_are_clipped_and_their_norm_before_that_is_reported():
    """Adam's first average of the gradient is (1 - beta_1) times the gradient that reached it."""
    trainer = make_trainer(max_grad_norm=0.01)
    records, _ = run(trainer, 1)
    assert trainer.weights.exp_avg.norm().item() == pytest.approx(0.1 * 0.01, rel=1e-3)
    assert records[0]["grad_norm"] > 0.1


def test_a_checkpoint_of_torch_adam_and_ema_pytorch_goes_on_as_they_do():
    """Earlier versions trained with these. Their state is that of 103 steps, so the average is no copy any more."""
    ours, theirs = make_trainer(amp=False, ema_update_every=3), make_trainer(amp=False, ema_update_every=3).diffusion
    adam = torch.optim.Adam(theirs.parameters(), lr=1e-3, betas=(0.9, 0.99))
    ema = EMA(theirs, beta=0.9, update_every=3, include_online_model=False)

    def step():
        generator = torch.Generator().manual_seed(int(ema.step))
        grads = {name: 0.1 * torch.randn(parameter.shape, generator=generator)
                 for name, parameter in theirs.named_parameters()}
        for name, parameter in theirs.named_parameters():
            parameter.grad = grads[name].clone()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), 1.0)
        adam.step()
        ema.update()
        return grads
    for _ in range(103):
        step()
    ours.load_state_dict(pickle.loads(pickle.dumps({        # as from a file
        "step": 103, "seconds": 1.0, "model": theirs.state_dict(), "opt": adam.state_dict(), "ema": ema.state_dict(),
        "scaler": None})))
    for number in range(103, 112):
        views = ours.weights.layout.views(ours.weights.grads)
        for name, grad in step().items():
            views[name].copy_(grad)
        ours.weights(number)
    expected = torch.cat([p.flatten() for p in (*theirs.parameters(), *ema.ema_model.parameters())])
    torch.testing.assert_close(weights(ours), expected, rtol=1e-4, atol=1e-6)


def test_a_resumed_run_takes_todays_learning_rate_and_averages():
    before = make_trainer()
    run(before, 2)
    after = make_trainer(train_lr=5e-5, adam_betas=(0.8, 0.95))
    after.load_state_dict(before.state_dict())
    (record,), _ = run(after, 3)
    assert record["lr"] == 5e-5 and after.weights.optimizer.param_groups[0]["betas"] == (0.8, 0.95)


def test_speed_and_time_leave_milestones_out():
    """Two milestones of 0.3 s, the first between two logs."""
    trainer, kept, started = make_trainer(), Kept(seconds=0.3), time.perf_counter()
    trainer.train(6, log_every=4, milestone_every=3, recorder=kept, stop=StopRequest())
    assert kept.records[-1]["wall_time"] <= time.perf_counter() - started - 0.6
    assert kept.records[0]["images_per_second"] == pytest.approx(4 * 8 / kept.records[0]["wall_time"])


# ---------------------------------------------------------------------------------------------------- bad numbers

def spoil(trainer, is_bad):
    """Let the images of those steps be NaN where is_bad(step, learning rate)."""
    draw = trainer.get_batch

    def spoilt(indices, generator):
        x, classes = draw(indices, generator)
        return (x * float("nan") if is_bad(trainer.step, trainer.weights.lr) else x), classes
    trainer.get_batch = spoilt


def test_a_step_that_is_not_finite_changes_nothing_and_is_counted():
    trainer = make_trainer(amp=False, ema_update_every=1)
    spoil(trainer, lambda step, lr: step in (3, 5))
    run(trainer, 3)
    before = copy.deepcopy(trainer.state_dict())
    run(trainer, 4)
    after = trainer.state_dict()
    assert all(torch.equal(before["model"][name], after["model"][name]) for name in before["model"])
    moments = before["opt"]["state"], after["opt"]["state"]
    assert all(torch.equal(moments[0][i][name], moments[1][i][name]) for i in moments[0] for name in moments[0][i])
    records, _ = run(trainer, 8)
    assert [record["skipped_steps"] for record in records] == [1, 2, 2, 2]
    assert math.isnan(records[1]["loss"]) and math.isfinite(records[2]["loss"])
    assert weights(trainer).isfinite().all()


def test_a_resumed_run_counts_on():
    first, second = make_trainer(amp=False), make_trainer(amp=False)
    spoil(first, lambda step, lr: step == 1)
    run(first, 3)
    second.load_state_dict(first.state_dict())
    records, _ = run(second, 4)
    assert records[0]["skipped_steps"] == 1


def test_many_steps_in_a_row_go_back_to_the_last_milestone_with_a_lower_learning_rate(capsys):
    """As when weights have run away: no batch helps, but at a lower rate they had stayed."""
    trainer, calm = make_trainer(amp=False), make_trainer(amp=False)
    spoil(trainer, lambda step, lr: step >= 8 and lr > 5e-4)
    records, milestones = run(trainer, 25, milestone_every=5)
    assert "up to step 18, were not finite: back to step 5, on with a learning rate of 0.00025" in (
        capsys.readouterr().out)
    assert [record["step"] for record in records] == [*range(1, 19), *range(6, 26)]
    assert milestones == [1, 2, 3, 4, 5] and trainer.step == 25 and weights(trainer).isfinite().all()
    run(calm, 10)
    calm.load_state_dict(trainer.state_dict())
    assert calm.weights.lr == 2.5e-4       # and so does a run that is resumed from it
    chosen = make_trainer(amp=False, train_lr=6e-4)     # unless its user lowered the rate
    chosen.load_state_dict(trainer.state_dict())
    assert chosen.weights.lr == 6e-4 and not chosen.has_rolled_back


def test_what_a_lower_learning_rate_does_not_mend_ends_in_one_line():
    trainer = make_trainer(amp=False)
    spoil(trainer, lambda step, lr: step >= 2)
    with pytest.raises(InputError, match="10 steps in a row, up to step .*, were not finite, at a learning rate of.*"
                                         "no checkpoint yet.*then start again"):
        run(trainer, 100, milestone_every=5)
    trainer = make_trainer(amp=False)
    spoil(trainer, lambda step, lr: step >= 7)
    with pytest.raises(InputError, match="the checkpoint of step 5 is whole.*--resume latest"):
        run(trainer, 100, milestone_every=5)


# ---------------------------------------------------------------------------------------------------- stopping

class AfterSteps(StopRequest):
    def __init__(self, steps):
        super().__init__()
        self.left = steps

    @property
    def reason(self):
        self.left -= 1
        return "enough" if self.left <= 0 else None


def test_stopped_in_between_it_saves_and_goes_on_to_the_same_weights():
    whole, first, second = (make_trainer() for _ in range(3))
    run(whole, 9)
    kept = Kept()
    assert first.train(9, log_every=4, milestone_every=3, recorder=kept, stop=AfterSteps(5)) == "enough"
    assert kept.milestones == [1, "2, early"] and [record["step"] for record in kept.records] == [4, 5]
    second.load_state_dict(first.state_dict())
    run(second, 9)
    assert torch.equal(weights(whole), weights(second))


def test_stopped_at_a_milestone_or_at_the_end_it_is_an_ordinary_one():
    kept = Kept()
    trainer = make_trainer()
    assert trainer.train(6, log_every=4, milestone_every=3, recorder=kept, stop=AfterSteps(3)) == "enough"
    assert trainer.train(6, log_every=4, milestone_every=3, recorder=kept, stop=AfterSteps(3)) is None
    assert kept.milestones == [1, 2]


def test_milestones_at_multiples_and_at_the_end():
    records, milestones = run(make_trainer(), 5, milestone_every=2)
    assert milestones == [1, 2, 3]
    assert [record["step"] for record in records] == [1, 2, 3, 4, 5]
    assert {"step", "loss", "grad_norm", "lr", "images_per_second", "wall_time", "skipped_steps"} == set(records[0])
    walls = [record["wall_time"] for record in records]
    assert walls == sorted(walls) and records[0]["images_per_second"] > 0


@pytest.mark.cuda
def test_random_numbers_are_drawn_on_the_very_device_that_holds_the_weights_by_its_number():
    """A cache on cuda:0 is not used for a generator on "cuda", which is how accelerate calls a single process's."""
    seen = []
    trainer = make_trainer(device=torch.device("cuda", 0))
    trainer.get_batch = lambda indices, generator: (seen.append(generator.device), (
        torch.zeros(len(indices), 2, 8, 8, device=generator.device), (indices % 2).to(generator.device)))[1]
    trainer.train_step()
    assert seen == [torch.device("cuda", 0)]
