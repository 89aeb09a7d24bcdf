"""Checkpoints: older ones, thinned ones, and files that are none."""
import pickle

import pytest
import torch
from ema_pytorch import EMA
from parity import state_dict
from PIL import Image

import generate
from denoising_diffusion_pytorch import GaussianDiffusion, Unet
from denoising_diffusion_pytorch.checkpoint import (ema_unet_weights, infer_config, list_milestones, load_checkpoint,
                                                    load_unet_weights, prune_checkpoints)
from groundwork.errors import InputError
from groundwork.files import save_tensors
from microdoppler.pipeline.generation import Sampling


@pytest.fixture(scope="module")
def older_checkpoint(tmp_path_factory):
    """As the first version of the system wrote it: everything there is, and an empty config."""
    unet = Unet(48, 31, dim_mults=(1, 2, 4), channels=4, attn_dim_head=32, attn_heads=4)
    unet.load_state_dict(state_dict("unet.shapes.json"))
    diffusion = GaussianDiffusion(unet, image_size=32)
    for name, buffer in list(diffusion.named_buffers()):
        diffusion.register_buffer(name, buffer)         # persistent, as they were
    ema = EMA(diffusion, include_online_model=True)
    path = tmp_path_factory.mktemp("older") / "model-75.pt"
    save_tensors(path, {"step": 150000, "model": diffusion.state_dict(), "ema": ema.state_dict(), "config": {},
                        "opt": torch.optim.Adam(unet.parameters()).state_dict()})
    return path


def test_an_older_checkpoint_tells_its_network_and_diffusion(older_checkpoint):
    checkpoint = load_checkpoint(older_checkpoint)
    assert "online_model.model.init_conv.weight" in checkpoint["ema"] and "loss_weight" in checkpoint["model"]
    known = infer_config(checkpoint)
    assert known == {"dim": 48, "dim_mults": (1, 2, 4), "channels": 4, "num_classes": 31, "attn_dim_head": 32,
                     "attn_heads": 4, "timesteps": 1000, "beta_schedule": "cosine", "objective": "pred_v",
                     "min_snr_loss_weight": True}
    unet = Unet(48, 31, dim_mults=(1, 2, 4), channels=4)
    load_unet_weights(unet, ema_unet_weights(checkpoint), older_checkpoint)
    assert torch.equal(unet.init_conv.weight, state_dict("unet.shapes.json")["init_conv.weight"])


def test_an_older_checkpoint_generates(older_checkpoint, tmp_path):
    save_tensors(tmp_path / "kl_vae_best.pt", state_dict("kl_vae.shapes.json"))
    generate.main(checkpoint=older_checkpoint, user_id=(31,), num_samples=1, device="cpu",
                  sampling=Sampling(sampling_timesteps=3),
                  vae_path=tmp_path / "kl_vae_best.pt", output_dir=tmp_path / "out")
    (file,) = (tmp_path / "out" / "ID_31").iterdir()
    assert Image.open(file).size == (256, 256)


@pytest.mark.parametrize("objective", ["pred_noise", "pred_x0", "pred_v"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
@pytest.mark.parametrize("min_snr", [True, False])
def test_objective_and_schedule_are_read_off_the_buffers(objective, schedule, min_snr):
    unet = Unet(8, 3, dim_mults=(1, 2, 2), channels=2, attn_heads=2)
    diffusion = GaussianDiffusion(unet, image_size=8, timesteps=100, objective=objective, beta_schedule=schedule,
                                  min_snr_loss_weight=min_snr)
    checkpoint = {"model": dict(diffusion.named_buffers()), "ema": {f"ema_model.{key}": value for key, value
                                                                    in diffusion.state_dict().items()}}
    known = infer_config(checkpoint)
    assert known["dim_mults"] == (1, 2, 2) and known["attn_heads"] == 2 and known["timesteps"] == 100
    assert (known["objective"], known["beta_schedule"], known["min_snr_loss_weight"]) == (objective, schedule, min_snr)


def test_weights_of_another_network_are_refused(older_checkpoint):
    with pytest.raises(InputError, match=r"another network: .*\(31, 48\).*expected \(30, 48\)"):
        load_unet_weights(Unet(48, 30, dim_mults=(1, 2, 4), channels=4),
                          ema_unet_weights(load_checkpoint(older_checkpoint)), older_checkpoint)


def test_a_missing_milestone_names_those_that_exist(tmp_path):
    for name in ("model-2.pt", "model-10.pt", "model-x.pt", "sample-3.png"):
        (tmp_path / name).touch()
    assert list_milestones(tmp_path) == [2, 10]
    with pytest.raises(InputError, match="milestones in .*: 2, 10"):
        load_checkpoint(tmp_path / "model-3.pt")


class Planted:
    def __reduce__(self):
        return (print, ("code ran",))


def test_thinning_keeps_the_newest_whole_and_of_the_others_what_draws_images(tmp_path):
    state = {"step": 1, "config": {"dim": 8}, "opt": {}, "scaler": None,        # as before there was a format
             "model": {"model.init_conv.weight": torch.zeros(9)},
             "ema": {"ema_model.model.init_conv.weight": torch.ones(9)}}
    for milestone in range(1, 8):
        save_tensors(tmp_path / f"model-{milestone}.pt", state)
        prune_checkpoints(tmp_path, keep_last=2, keep_every=3)
    assert list_milestones(tmp_path) == [3, 6, 7]
    thinned, *whole = (load_checkpoint(tmp_path / f"model-{milestone}.pt") for milestone in (3, 6, 7))
    assert set(thinned) == {"format", "step", "config", "ema"} and all(set(found) == set(state) for found in whole)
    assert torch.equal(ema_unet_weights(thinned)["init_conv.weight"], torch.ones(9))


def test_thinning_leaves_what_it_cannot_read_and_what_its_model_alone_describes(tmp_path, capsys):
    older = {"step": 1, "config": {}, "model": {"model.init_conv.weight": torch.zeros(9)}, "opt": {},
             "ema": {"ema_model.model.init_conv.weight": torch.ones(9)}}
    for milestone in (1, 3, 4):
        save_tensors(tmp_path / f"model-{milestone}.pt", older)
    (tmp_path / "model-2.pt").write_bytes(b"damaged")
    prune_checkpoints(tmp_path, keep_last=1, keep_every=1)
    assert (tmp_path / "model-2.pt").read_bytes() == b"damaged" and "left as it is" in capsys.readouterr().out
    assert "opt" in load_checkpoint(tmp_path / "model-1.pt") and "opt" in load_checkpoint(tmp_path / "model-4.pt")


@pytest.mark.parametrize("found", [3, "2", None])
def test_a_checkpoint_of_a_later_version_is_refused(tmp_path, found):
    save_tensors(tmp_path / "model-1.pt", {"format": found, "step": 1, "ema": {}})
    with pytest.raises(InputError, match="update"):
        load_checkpoint(tmp_path / "model-1.pt")


def test_files_that_are_no_checkpoint_are_refused_and_run_no_code(tmp_path, capsys):
    path = tmp_path / "model-1.pt"
    torch.save({"step": 1, "model": Planted(), "ema": {}}, path)
    with pytest.raises(InputError, match="run code"):
        load_checkpoint(path)
    path.write_bytes(pickle.dumps(Planted()))
    with pytest.raises(InputError):
        load_checkpoint(path)
    assert "code ran" not in capsys.readouterr().out
    for content in (b"", b"no checkpoint", b"PK\x03\x04 cut short"):
        path.write_bytes(content)
        with pytest.raises(InputError):
            load_checkpoint(path)
    save_tensors(path, {"model_state_dict": {}})
    with pytest.raises(InputError, match="no diffusion checkpoint: found model_state_dict"):
        load_checkpoint(path)
