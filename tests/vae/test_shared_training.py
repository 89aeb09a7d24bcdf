"""Two processes that know of each other, as `accelerate launch --num_processes 2` starts them, train the VAE that one
trains."""
import math
import runpy
import signal
import sys
from contextlib import nullcontext
from pathlib import Path
from signal import SIGTERM
from types import SimpleNamespace

import pytest
import torch
from test_vae_train import SETTINGS, stripes, write_data
from torch import Tensor, nn

import vae.trainer
from groundwork.errors import InputError
from groundwork.files import load_tensors
from vae import KL_VAE
from vae.train import main, train_vae
from vae.trainer import VAETrainer

SHARPENING = {"plain": {}, "later": {"adversarial_start": 2}, "from the start": {"adversarial_start": 0}}
OPTIONS = {"image_size": 16, "ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "num_steps": 6, "batch_size": 4,
           "lr": 1e-3, "validate_every": 2, "adversarial_start": 3, "device": "cpu"}
ROUNDING = 0.02     # of the way of the weights; Adam takes a whole step where a gradient is 0 but for rounding


def speckled(num_images: int) -> Tensor:
    """Images that differ in brightness and speckle, (n, 3, 16, 16) uint8, so that the halves of a batch do."""
    brightness = torch.linspace(0.1, 0.8, num_images).view(-1, 1, 1, 1)
    noise = torch.randn(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return (brightness * stripes(num_images) + 20 * noise).clamp(0, 255).byte()


def make_trainer(**sharpening) -> VAETrainer:
    torch.manual_seed(0)
    tuned = KL_VAE(SETTINGS["ddconfig"]) if sharpening.get("adversarial_start") == 0 else None
    return VAETrainer(SETTINGS["ddconfig"], torch.device("cpu"), 4, lr=1e-3, kl_weight=1e-3, seed=3, finetune=tuned,
                      **sharpening)


def weights(trainer: VAETrainer) -> Tensor:
    """All weights of VAE, average and discriminator, in one vector."""
    networks = [trainer.vae, trainer.average] + ([trainer.adversary.discriminator] if trainer.adversary else [])
    return nn.utils.parameters_to_vector(weight for network in networks for weight in network.parameters()).detach()


def train_each(folder):
    """Train with each kind of SHARPENING; weights before and after, and losses, go to a file of this process."""
    trained = {}
    for kind, sharpening in SHARPENING.items():
        trainer = make_trainer(**sharpening)
        before = weights(trainer)
        losses = [trainer.train_step(speckled(12), batch_size=4) for _ in range(4)]
        trained[kind] = before, weights(trainer), losses
    torch.save(trained, Path(folder, f"{trainer.processes.process_index}.pt"))


def test_two_processes_have_the_weights_of_one(tmp_path, call_in_two, one_thread):
    (tmp_path / "alone").mkdir()
    train_each(tmp_path / "alone")
    call_in_two(train_each, tmp_path)
    alone, first, second = (torch.load(tmp_path / name) for name in ("alone/0.pt", "0.pt", "1.pt"))
    for kind, (before, after, losses) in alone.items():
        assert torch.equal(first[kind][1], second[kind][1]) and first[kind][2] == second[kind][2]
        assert (first[kind][1] - after).norm() < ROUNDING * (after - before).norm(), kind
        assert first[kind][2] == pytest.approx(losses, rel=1e-3)


def spoil(folder):
    """From the second step on, the loss of the second process is infinite: with a GradScaler, then without one."""
    trainer, loss = make_trainer(), vae.trainer.autoencoding_loss
    rank = trainer.processes.process_index
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=256)
    trainer.train_step(speckled(12), batch_size=4)
    before = [weight.clone() for weight in trainer.vae.parameters()]
    vae.trainer.autoencoding_loss = lambda *inputs: loss(*inputs) * (math.inf if rank else 1)
    trainer.train_step(speckled(12), batch_size=4)
    told = [all(map(torch.equal, before, trainer.vae.parameters())), trainer.scaler.get_scale()]
    with pytest.raises(InputError) as error:
        train_vae(speckled(12), speckled(4), output=Path(folder, "vae.pt"), **SETTINGS)
    Path(folder, f"{rank}.txt").write_text(repr([*told, str(error.value)]))


def test_a_loss_that_is_not_finite_in_one_process_skips_the_step_or_ends_training_in_both(tmp_path, call_in_two):
    call_in_two(spoil, tmp_path)
    told = [True, 128.0, "the VAE's loss is inf at step 1; try a lower --lr than 0.002"]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in (0, 1)] == [repr(told)] * 2


def end_in_step_5(*words):
    """Run `python -m vae.train` with these words, and get SIGTERM in the fifth step. When one process has got it, the
    launcher sends it to the others."""
    step = VAETrainer.train_step
    VAETrainer.train_step = lambda self, *inputs: step(self, *inputs) if self.step < 4 else signal.raise_signal(SIGTERM)
    sys.argv = ["train.py", *words]
    runpy.run_module("vae.train", run_name="__main__", alter_sys=True)


def test_two_processes_that_were_ended_go_on_with_resume(tmp_path, script, call_in_two, one_thread):
    data, split = write_data(tmp_path)
    main(data, tmp_path / "whole.pt", split, **OPTIONS)
    shown = {"data_path": data, "split": split, "output": tmp_path / "parts.pt", **OPTIONS, "ch_mult": "1 2"}
    words = " ".join(f"--{name} {value}" for name, value in shown.items()).split()
    call_in_two(end_in_step_5, *words, expect=-SIGTERM)
    assert load_tensors(tmp_path / "parts_state.pt")["step"] == 4
    out, _ = script("-m", "vae.train", *words, "--resume", processes=2)
    assert "on 2 x the CPU" in out and "micro-batch 2" in out and out.count("at step 6; latents std") == 1
    whole, parts = (load_tensors(tmp_path / f"{name}_state.pt") for name in ("whole", "parts"))
    for part in ("model", "average", "discriminator"):
        for name, weight in whole[part].items():
            torch.testing.assert_close(parts[part][name], weight, rtol=0, atol=2 * OPTIONS["lr"])
    assert len(list(tmp_path.glob("parts*"))) == 3      # weights, state and picture


@pytest.mark.parametrize("start, batch_size, words", [
    (None, 3, "^--batch_size 3 of 9 training images makes steps with 3 of them, .* 2 processes; choose a multiple of"),
    (None, 16, "^--batch_size 16 of 9 training images makes steps with 9 .* choose a multiple of 2, at most 9, or"),
    (0, 6, "of sharpening with 3 of them"), (2, 6, "multiple of 4"), (2, 5, "makes steps with 5 .* multiple of 4"),
    (None, 4, None), (0, 4, None), (0, 5, None), (2, 8, None)])
def test_a_batch_that_cannot_be_shared_evenly_is_refused(start, batch_size, words):
    trainer = make_trainer(adversarial_start=start)
    trainer.check_shares(batch_size, num_images=9)      # alone it is all the same
    trainer.processes = SimpleNamespace(num_processes=2)
    with pytest.raises(InputError, match=words) if words else nullcontext():
        trainer.check_shares(batch_size, num_images=9)
