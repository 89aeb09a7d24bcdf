"""KL_VAE: what the first version's network computes, and files that do or do not hold a VAE."""
import math

import numpy as np
import parity
import pytest
import torch

from groundwork.device import convolution_format, in_memory_format
from groundwork.errors import InputError
from groundwork.files import save_tensors
from vae import KL_VAE
from vae.group_norm import GroupNorm

SMALL = {"ch": 8, "ch_mult": (1, 2, 2), "num_res_blocks": 1}


def small_vae(seed: int = 0) -> KL_VAE:
    torch.manual_seed(seed)
    return KL_VAE(SMALL).eval()


def relative_error(ours: torch.Tensor, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours.numpy() - theirs) / np.linalg.norm(theirs))


@pytest.fixture(scope="module")
def fixture() -> dict[str, np.ndarray]:
    return dict(np.load(parity.FIXTURES / "kl_vae.npz"))


@pytest.fixture(scope="module")
def original_vae(tmp_path_factory) -> KL_VAE:
    """The fixture weights, by way of a file that holds a bare state dict."""
    path = tmp_path_factory.mktemp("vae") / "kl_vae_best.pt"
    save_tensors(path, parity.state_dict("kl_vae.shapes.json"))
    return KL_VAE.load(path)


def test_parameters_have_the_original_names_and_shapes():
    with torch.device("meta"):
        ours = {key: tuple(value.shape) for key, value in KL_VAE().state_dict().items()}
    assert ours == parity.shapes("kl_vae.shapes.json")


@torch.no_grad()
def test_posterior_is_the_original_one(original_vae, fixture):
    posterior = original_vae.encode(torch.from_numpy(fixture["x"]).float())
    assert relative_error(posterior.mean, fixture["mean"]) < 1e-4
    assert relative_error(posterior.logvar, fixture["logvar"]) < 1e-4


@torch.no_grad()
def test_decoded_image_is_the_original_one(original_vae, fixture):
    decoded = original_vae.decode(torch.from_numpy(fixture["z"]) / 0.18215)
    assert relative_error(decoded[:, :, 96:160, 96:160], fixture["decoded_crop"]) < 1e-4
    assert decoded.mean().item() == pytest.approx(float(fixture["decoded_mean"]), rel=1e-4)
    assert decoded.std().item() == pytest.approx(float(fixture["decoded_std"]), rel=1e-4)


def test_latents_are_the_scaled_mean_and_come_back_as_images_in_unit_range():
    vae, images = small_vae(), torch.rand(2, 3, 16, 32)
    latents = vae.encode_images(images)
    assert latents.shape == (2, 4, 4, 8)
    torch.testing.assert_close(latents, 0.18215 * vae.encode(images).mean)
    decoded = vae.decode_latents(100 * latents)
    assert decoded.shape == images.shape
    assert decoded.min() == 0 and decoded.max() <= 1        # these latents overshoot, so the clamp has work to do


def test_latent_samples_have_the_posterior_mean_and_std_and_repeat_with_the_seed():
    vae, image = small_vae(), torch.rand(1, 3, 16, 16)
    posterior = vae.encode(image)
    latents = vae.encode_images(image.expand(4000, -1, -1, -1), torch.Generator().manual_seed(1)) / 0.18215
    torch.testing.assert_close(latents.mean(0), posterior.mean[0], atol=5 * posterior.std.max().item() / 63, rtol=0)
    torch.testing.assert_close(latents.std(0), posterior.std[0], atol=0, rtol=0.06)
    first, second = (posterior.sample(torch.Generator().manual_seed(seed)) for seed in (1, 1))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_kl_matches_torch_distributions_and_logvar_is_clamped():
    vae = small_vae()
    posterior = vae.encode(torch.rand(3, 3, 16, 16))
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(posterior.mean, posterior.std), normal(0.0, 1.0)).sum((1, 2, 3))
    torch.testing.assert_close(posterior.kl(), expected, rtol=1e-5, atol=1e-4)
    for bias, logvar in ((-1e4, -30), (1e4, 20)):
        torch.nn.init.constant_(vae.quant_conv.bias, bias)
        assert torch.all(vae.encode(torch.rand(1, 3, 16, 16)).logvar == logvar)


def test_the_posterior_is_float32_under_autocast():
    """In float16 the KL of one 256 px image, a sum over 4096 latents, is beyond the largest number."""
    vae = KL_VAE({"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1})
    with torch.autocast("cpu", torch.bfloat16):
        posterior = vae.encode(torch.rand(2, 3, 16, 16))
        assert {posterior.mean.dtype, posterior.logvar.dtype, posterior.kl().dtype} == {torch.float32}


@torch.no_grad()
@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision_gives_what_float32_gives_to_rounding(dtype, bound):
    vae, images, latents = small_vae(), torch.rand(4, 3, 32, 32), torch.randn(4, 4, 8, 8)
    exact = vae.encode(images), vae.decode(latents)
    vae.compute_in(dtype)
    posterior, decoded = vae.encode(images), vae.decode(latents)
    for result, expected in ((posterior.mean, exact[0].mean), (posterior.logvar, exact[0].logvar), (decoded, exact[1])):
        assert result.dtype == torch.float32
        assert 0 < relative_error(result, expected.numpy()) < bound


@torch.no_grad()
def test_the_copy_in_half_precision_follows_weights_that_are_loaded_or_moved():
    vae, other, latents = small_vae(), small_vae(seed=1), torch.randn(2, 4, 8, 8)
    for one in (vae, other):
        one.compute_in(torch.bfloat16)
    vae.load_state_dict(other.state_dict())
    assert torch.equal(vae.decode(latents), other.decode(latents))
    vae.to(memory_format=torch.channels_last)
    assert vae.decode(latents).is_contiguous(memory_format=torch.channels_last)
    vae.compute_in(None)
    assert not torch.equal(vae.to("cpu").decode(latents), other.decode(latents))


@torch.no_grad()
@pytest.mark.parametrize("dtype, bound", [(torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
@pytest.mark.parametrize("mean, std", [(0, 1), (5, 1), (-300, 100), (0, 0), (3, 0)])
def test_group_norm_from_sums_is_group_norm_in_the_same_memory_format(dtype, bound, mean, std):
    norm = GroupNorm(96).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (mean + std * torch.randn(2, 96, 9, 7)).to(dtype, memory_format=torch.channels_last)
    groups = x.double().unflatten(1, (32, 3))
    centred = groups - groups.mean(dim=(2, 3, 4), keepdim=True)
    normalised = (centred / (centred.square().mean(dim=(2, 3, 4), keepdim=True) + 1e-6).sqrt()).flatten(1, 2)
    expected = normalised * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
    found = norm.from_sums(x)
    assert found.dtype == dtype and found.is_contiguous(memory_format=torch.channels_last)
    assert relative_error(found.double(), expected.numpy()) < bound


@pytest.mark.cuda
@pytest.mark.parametrize("dtype, least_db", [(torch.bfloat16, 30), (torch.float16, 47)])
def test_a_card_gives_the_images_of_the_cpu_in_half_precision(dtype, least_db):
    """Random weights keep less than trained ones do: a CPU gives 34.6 dB in bfloat16, 52.3 dB in float16."""
    torch.manual_seed(0)
    vae, latents = KL_VAE({"ch": 64, "ch_mult": (1, 2, 2)}).eval().requires_grad_(False), torch.randn(2, 4, 16, 16)
    exact = vae.decode(latents)
    device = torch.device("cuda")
    in_memory_format(vae.to(device), convolution_format(device)).compute_in(dtype)
    with torch.inference_mode():
        error = (vae.decode(latents.to(device)).cpu() - exact).square().mean() / exact.var()
    assert -10 * error.log10() > least_db


@torch.no_grad()
def test_a_vae_computes_in_the_half_precision_of_its_device_unless_told_otherwise(tmp_path, native_bfloat16):
    vae, images = small_vae(), torch.rand(1, 3, 16, 16)
    save_tensors(tmp_path / "vae.pt", vae.checkpoint())
    exact = vae.encode(images).mean
    assert torch.allclose(KL_VAE.load(tmp_path / "vae.pt", amp=False).encode(images).mean, exact, atol=1e-5)
    loaded = KL_VAE.load(tmp_path / "vae.pt")
    assert 1e-4 < relative_error(loaded.encode(images).mean, exact.numpy()) < 0.03
    assert loaded.fingerprint() == vae.fingerprint()


@torch.no_grad()
def test_only_a_batch_that_overflows_float16_is_computed_in_float32():
    vae, dark, bright = small_vae(), torch.zeros(2, 3, 16, 16), torch.ones(2, 3, 16, 16)
    vae.encoder.conv_in.weight.copy_(5000 * (1 + torch.rand_like(vae.encoder.conv_in.weight)))
    small, large = torch.randn(2, 2, 4, 4, 4).mul(torch.tensor([1, 1e5])[:, None, None, None, None])
    exact = [vae.encode(dark).mean, vae.decode(small)], [vae.encode(bright).mean, vae.decode(large)]
    vae.compute_in(torch.float16)
    for expected, found in zip(exact[0], (vae.encode(dark).mean, vae.decode(small))):
        assert 0 < relative_error(found, expected.numpy()) < 0.01
    for expected, found in zip(exact[1], (vae.encode(bright).mean, vae.decode(large))):
        assert found.isfinite().all() and torch.equal(found, expected)


def test_latent_size_follows_the_number_of_levels():
    assert small_vae().latent_size(64) == 16
    with pytest.raises(InputError, match="multiple of 4"):
        small_vae().latent_size(66)
    with pytest.raises(ValueError, match="channels"):
        KL_VAE({"channels": 8})


@torch.no_grad()
def test_smaller_vae_is_saved_with_its_shape_and_other_keys_are_ignored(tmp_path):
    vae = KL_VAE(SMALL, embed_dim=3, scale_factor=0.5)
    save_tensors(tmp_path / "vae.pt", {**vae.checkpoint(), "epoch": 7, "history": [1.0]})
    loaded, images = KL_VAE.load(tmp_path / "vae.pt"), torch.rand(1, 3, 16, 16)
    assert torch.allclose(loaded.encode_images(images), vae.encode_images(images), atol=1e-5)
    assert not loaded.training and loaded.fingerprint() == vae.fingerprint()


def test_half_precision_weights_load_as_float32(tmp_path):
    checkpoint = small_vae().half().checkpoint()
    save_tensors(tmp_path / "vae.pt", checkpoint)
    assert all(weight.dtype == torch.float32 for weight in KL_VAE.load(tmp_path / "vae.pt").parameters())


def test_fingerprint_changes_with_any_weight_and_with_the_scale():
    vae = small_vae()
    prints = [vae.fingerprint(), small_vae(seed=1).fingerprint()]
    with torch.no_grad():
        vae.decoder.conv_out.bias[0] += 1e-6
    prints.append(vae.fingerprint())
    vae.scale_factor = 0.2
    prints.append(vae.fingerprint())
    assert len(set(prints)) == 4
    assert small_vae().fingerprint() == prints[0]


def test_the_sizes_of_a_network_are_read_off_its_weights(tmp_path):
    save_tensors(tmp_path / "vae.pt", small_vae().state_dict())
    loaded = KL_VAE.load(tmp_path / "vae.pt")
    assert loaded.ddconfig == small_vae().ddconfig and loaded.fingerprint() == small_vae().fingerprint()


def test_fingerprints_stored_by_earlier_versions_stay_valid():
    vae = KL_VAE({"ch": 32, "ch_mult": (1, 2), "num_res_blocks": 1})
    vae.load_state_dict({key: torch.from_numpy(parity.fill(key, tuple(weight.shape))).float()
                         for key, weight in vae.state_dict().items()})
    assert vae.fingerprint() == "49fbee0b20e889d5442012bd72fa2b36dcc47f0858cb345d9d918a7f86f9a819"


def test_weights_that_do_not_fit_each_other_are_named_with_their_shapes(tmp_path):
    weights = small_vae().state_dict()
    save_tensors(tmp_path / "vae.pt", weights | {"encoder.norm_out.bias": torch.zeros(4)})
    with pytest.raises(InputError) as error:
        KL_VAE.load(tmp_path / "vae.pt")
    message = str(error.value)
    assert "1 place: encoder.norm_out.bias found (4,), expected (16,)" in message and "\n" not in message


@pytest.mark.parametrize("content, named", [
    ({"step": 5, "model": {"w": torch.zeros(1)}, "ema": {"w": torch.zeros(1)}, "opt": {}}, "diffusion checkpoint"),
    ({}, "nothing"),
    ([torch.zeros(2)], "list"),
    ({"model_state_dict": 3}, "model_state_dict"),
])
def test_files_of_something_else_are_refused(tmp_path, content, named):
    save_tensors(tmp_path / "vae.pt", content)
    with pytest.raises(InputError, match=named):
        KL_VAE.load(tmp_path / "vae.pt")


def test_truncated_file_is_refused(tmp_path):
    path = tmp_path / "vae.pt"
    save_tensors(path, small_vae().checkpoint())
    path.write_bytes(path.read_bytes()[:math.ceil(path.stat().st_size / 2)])
    with pytest.raises(InputError, match="vae.pt"):
        KL_VAE.load(path)
