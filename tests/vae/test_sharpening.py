"""Sharp VAEs: the losses against closed forms, the discriminator and the decoder on toys whose answer is known, and a
decoder that was tuned for the latents of an earlier VAE."""
import math

import pytest
import torch
from test_vae_train import SETTINGS, stripes, write_data
from torch import nn

from groundwork.errors import InputError
from vae import KL_VAE, train
from vae.discriminator import PatchDiscriminator, as_written
from vae.layouts import transposed, without_grid
from vae.losses import adversarial_loss, combined_gradient, discriminator_loss, feature_distance, mean_error
from vae.networks import Floor
from vae.train import main, train_vae
from vae.trainer import VAETrainer

SHARP = {"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1, "noise_inputs": True}


def sharp_vae(strength: float = 0.0) -> KL_VAE:
    """A VAE with random weights whose noise inputs all have this strength."""
    torch.manual_seed(0)
    vae = KL_VAE(SHARP).eval().requires_grad_(False)
    for level in vae.decoder.up:
        nn.init.constant_(level.noise.strength.bias, strength)
    return vae


def speckle(num_images: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Grey noise without structure, (n, 3, size, size) uint8, mean 128 and std 50: nothing that latents could keep."""
    noise = torch.randn(num_images, 1, size, size, generator=torch.Generator().manual_seed(seed))
    return (128 + 50 * noise).clamp(0, 255).byte().expand(-1, 3, -1, -1)


def test_mean_error_is_that_of_the_mean_however_strong_the_speckle():
    target, mean = torch.rand(40, 40), torch.rand(40, 40)
    generator = torch.Generator().manual_seed(0)
    for std in (0.0, 0.5):
        first, second = (mean + std * torch.randn(800, 40, 40, generator=generator) for _ in range(2))
        expected = (mean - target).square().mean()
        assert mean_error(first, second, target).item() == pytest.approx(expected.item(), abs=2e-3)


def test_the_feature_distance_is_relative_to_each_layer():
    target = [torch.full((2, 3), 2.0), torch.full((5,), 10.0)]
    first, second = [t + 1 for t in target], [t + 2 for t in target]
    assert feature_distance(first, second, target).item() == pytest.approx((2 / 4 + 2 / 100) / 2)


def test_the_hinge_losses_and_where_their_gradients_end():
    real, fake = torch.tensor([2.0, 0.5, -1.0], requires_grad=True), torch.tensor([-3.0, 0.0], requires_grad=True)
    loss = discriminator_loss(real, fake)
    assert loss.item() == pytest.approx(0.5 * ((0 + 0.5 + 2) / 3 + (0 + 1) / 2))
    loss.backward()
    assert real.grad.tolist() == pytest.approx([0, -1 / 6, -1 / 6]) and fake.grad.tolist() == [0, 0.25]
    assert adversarial_loss(torch.tensor([1.0, 3.0])).item() == -2


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_adaptive_weight_makes_both_gradients_of_the_last_layer_equally_long(scale):
    """decoded = features @ layer; the gradient of a loss with respect to the layer is features.T @ ∇ decoded."""
    features, layer = torch.randn(6, 4), torch.randn(4, 5, requires_grad=True)
    decoded = features @ layer
    direction = torch.randn(6, 5)
    error, adversarial = decoded.square().sum(), scale * (direction * decoded).sum()
    gradient = combined_gradient(decoded, error, adversarial, layer, weight=0.5)
    own = 2 * decoded.detach()
    ratio = (features.T @ own).norm() / (features.T @ direction).norm()
    torch.testing.assert_close(gradient, own + 0.5 * ratio * direction)


def test_an_adversarial_gradient_that_would_overflow_in_float16_counts_like_any_other():
    """Scaled by a GradScaler, its gradient at the last layer is above 65 504, while that of the error is not."""
    features, layer = torch.full((6, 4), 10.0), torch.randn(4, 5, requires_grad=True)
    decoded = (features.half() @ layer.half()).float()
    error, adversarial = decoded.square().mean(), 2000 * decoded.sum()
    own, other = 2 * decoded.detach() / decoded.numel(), torch.full((6, 5), 2000.0)
    ratio = (features.T @ own).norm() / (features.T @ other).norm()
    torch.testing.assert_close(combined_gradient(decoded, error, adversarial, layer, weight=0.5),
                               own + 0.5 * ratio * other, rtol=0.01, atol=1e-3)


def test_gradients_that_are_not_finite_are_seen_by_the_scaler_and_none_of_0_harms():
    layer = torch.randn(4, 5, requires_grad=True)
    decoded = torch.randn(6, 4) @ layer
    error = decoded.square().mean()
    assert not combined_gradient(decoded, error, math.inf * decoded.sum(), layer, weight=0.5).isfinite().any()
    own = 2 * decoded.detach() / decoded.numel()
    torch.testing.assert_close(combined_gradient(decoded, error, 0 * decoded.sum(), layer, weight=0.5), own)
    assert combined_gradient(decoded, 0 * error, 0 * decoded.sum(), layer, weight=0.5).abs().max() == 0


def test_the_discriminator_scores_patches_of_40_pixels():
    discriminator = PatchDiscriminator(3, 8)
    images = torch.rand(1, 3, 96, 96, requires_grad=True)
    scores, features = discriminator(images)
    assert scores.shape == (1, 1, 12, 12) and [len(layer) for layer in features] == [1] * 4
    scores[0, 0, 6, 6].backward()
    rows = images.grad[0].abs().sum(dim=(0, 2)).nonzero().flatten()
    assert rows.max() - rows.min() + 1 == 40


def test_the_discriminator_learns_to_see_a_faint_grid():
    """As transposed convolutions leave one: 3 of 255 steps, on every second pixel of a flat background."""
    torch.manual_seed(0)
    discriminator, levels = PatchDiscriminator(1, 8), torch.rand(40, 1, 1, 1) * 0.8 + 0.1
    optimizer = torch.optim.Adam(discriminator.parameters(), 3e-3, betas=(0.5, 0.9))
    flat, grid = levels.expand(-1, 1, 16, 16), torch.zeros(16, 16)
    grid[::2, ::2] = 3 / 255
    for _ in range(60):
        loss = discriminator_loss(discriminator(flat[:30])[0], discriminator(flat[:30] + grid)[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert discriminator(flat[30:])[0].min() > discriminator(flat[30:] + grid)[0].max()


def test_images_are_judged_as_they_are_written():
    images = torch.tensor([-0.2, 0.001, 0.1, 0.5, 1.3], requires_grad=True)
    written = as_written(images)
    assert (255 * written).tolist() == pytest.approx([0, 0, 26, 128, 255])
    written.sum().backward()
    assert images.grad.tolist() == [0, 1, 1, 1, 0]


def test_the_floor_is_the_commonest_colour_and_is_exactly_flat():
    images = torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8)
    floor, colour = Floor(3), torch.tensor([0, 3, 126], dtype=torch.uint8).view(3, 1, 1)
    floor.find(images)
    assert floor.radius == 0 and torch.allclose(floor(images / 255), images / 255, atol=1e-6)      # there is none
    images[:, :, :8] = colour
    floor.find(images)
    near = colour / 255 + 8 / 255 / math.sqrt(3) * (2 * torch.rand(1, 3, 50, 50) - 1)
    assert ((255 * floor(near)).round() == colour).all()
    far = colour / 255 + torch.rand(1, 3, 50, 50) + 17 / 255
    torch.testing.assert_close(floor(far), far)
    ramp = colour / 255 + torch.linspace(0, 0.1, 200) * torch.tensor([0.0, 0.0, 1.0]).view(3, 1, 1)
    steps = floor(ramp[None])[0, 2].diff(dim=1)
    assert (steps > 0).all() and steps.max() < 2.1 * 0.1 / 199                  # no jump, and a gradient everywhere
    floor.find(torch.randint(0, 256, (4, 3, 20, 20), dtype=torch.uint8))
    assert floor.radius == 0                                                    # these images have none


def test_what_is_flat_stays_flat():
    """But for the padding at the border. A transposed convolution leaves a grid."""
    plain = KL_VAE({**SHARP, "noise_inputs": False}).eval()
    for vae, is_flat in ((sharp_vae(), True), (plain, False)):
        inner = vae.decode(torch.full((1, 4, 40, 40), 0.7))[0, :, 32:-32, 32:-32]
        assert ((inner.amax(dim=(1, 2)) - inner.amin(dim=(1, 2))).max() < 1e-5) == is_flat


def test_an_image_depends_on_its_seed_and_not_on_its_batch():
    vae, latents = sharp_vae(strength=0.3), torch.randn(1, 4, 8, 8).expand(3, -1, -1, -1)
    images = vae.decode(latents, [5, 6, 5])
    assert torch.equal(images[0], images[2]) and (images[0] - images[1]).abs().mean() > 0.01
    torch.testing.assert_close(images[1], vae.decode(latents[:1], [6])[0], rtol=0, atol=1e-5)
    assert torch.equal(sharp_vae().decode(latents, [5, 6, 5])[0], sharp_vae().decode(latents)[1])      # strength 0


def test_upsampling_that_was_converted_comes_back_exactly():
    kernel = torch.randn(6, 4, 3, 3)
    converted = without_grid({"decoder.up.1.upsample.weight": transposed(kernel),
                              "decoder.up.1.upsample.bias": kernel[0, 0], "other": kernel})
    torch.testing.assert_close(converted["decoder.up.1.upsample.1.weight"], kernel)
    assert list(converted)[1:] == ["decoder.up.1.upsample.1.bias", "other"]


def test_sharpening_makes_the_speckle_that_latents_do_not_hold():
    """Of pure noise, a VAE keeps the mean. Sharpened, its images have the std of the noise, and still its mean:
    another image for each seed."""
    images = speckle(32)
    settings = {"num_steps": 60, "lr": 4e-3, "kl_weight": 1.0, "seed": 0}
    trainer = VAETrainer({"ch": 8, "ch_mult": (1, 2), "num_res_blocks": 1}, torch.device("cpu"), **settings,
                         adversarial_start=10)
    spread = {}
    for step in range(settings["num_steps"]):
        trainer.train_step(images, batch_size=8)
        if step in (9, 59):
            written = 255 * as_written(trainer.average.decode(torch.zeros(32, 4, 8, 8), range(32)))
            spread[step] = written.std(dim=0).mean().item(), written.mean().item()
    real = images.float().std(dim=0).mean().item()
    assert spread[9][0] == 0
    assert spread[59][0] == pytest.approx(real, rel=0.4) and spread[59][1] == pytest.approx(128, abs=20)


def test_the_encoder_rests_while_the_decoder_is_sharpened_and_noise_before():
    trainer = VAETrainer(SETTINGS["ddconfig"], torch.device("cpu"), 4, lr=1e-2, kl_weight=1e-3, seed=0,
                         adversarial_start=2, adversarial_weight=0.5)
    averaged = None
    for step in range(4):
        before = {name: weight.clone() for name, weight in trainer.vae.state_dict().items()}
        if step == 2:
            averaged = {name: weight.clone() for name, weight in trainer.average.state_dict().items()}
        trainer.train_step(stripes(8), batch_size=4)
        now = trainer.vae.state_dict()
        encoder, noise = ([name for name in now if part in name] for part in ("encoder.", ".noise."))
        if step < 2:
            assert all(torch.equal(now[name], before[name]) for name in noise)
        else:
            assert all(torch.equal(now[name], averaged[name]) for name in encoder)
            assert all(torch.equal(weight, trainer.average.state_dict()[name]) for name, weight in averaged.items()
                       if name in encoder)
            assert not any(torch.equal(now[name], before[name]) for name in noise if name.endswith("bias"))


@pytest.mark.parametrize("start, validate_every", [(4, 2), (3, 2)])
def test_sharpening_begins_with_the_weights_that_were_best_until_then(tmp_path, monkeypatch, start, validate_every):
    """As --finetune_decoder does, which gets them in their file. Whether a validation is due at that step or not."""
    mse, kept = iter([0.1, 0.3, 0.2, 0.4]), {}      # the first one, at step 2, is the best

    def measure(vae, images, **settings):
        kept[len(kept)] = {name: weight.clone() for name, weight in vae.state_dict().items()}
        return {"mse": next(mse)}, images
    monkeypatch.setattr(train, "measure_quality", measure)
    train_vae(stripes(8), stripes(4), output=tmp_path / "vae.pt",
              **{**SETTINGS, "adversarial_start": start, "validate_every": validate_every})
    last, encoder = KL_VAE.load(tmp_path / "vae.pt").state_dict(), [name for name in kept[0] if "encoder." in name]
    assert all(torch.equal(last[name], kept[0][name]) for name in encoder)
    assert not all(torch.equal(kept[1][name], kept[0][name]) for name in encoder)
    assert not torch.equal(last["decoder.conv_out.bias"], kept[0]["decoder.conv_out.bias"])


@pytest.fixture
def tuned(tmp_path):
    """(the folder of data, its split, the VAE before, the same with a tuned decoder)"""
    data, split = write_data(tmp_path)
    options = {"num_steps": 3, "batch_size": 4, "lr": 2e-3, "device": "cpu"}
    main(data, tmp_path / "plain.pt", split, image_size=16, ch=8, ch_mult=(1, 2), num_res_blocks=1,
         **options)
    main(data, tmp_path / "sharp.pt", split, finetune_decoder=tmp_path / "plain.pt", **options)
    return data, split, tmp_path / "plain.pt", tmp_path / "sharp.pt"


def test_a_tuned_decoder_has_the_latents_of_its_vae_to_the_bit(tuned, tmp_path):
    plain, sharp = map(KL_VAE.load, tuned[2:])
    images = stripes(6).float() / 255
    assert torch.equal(plain.encode(images).mean, sharp.encode(images).mean)
    assert torch.equal(plain.encode(images).logvar, sharp.encode(images).logvar)
    assert sharp.fingerprint() == plain.fingerprint() == plain.digest() != sharp.digest()
    assert (sharp.image_size, sharp.trained_on) == (plain.image_size, plain.trained_on)
    latents = plain.encode_images(images)
    assert (sharp.decode_latents(latents) - plain.decode_latents(latents)).abs().max() > 1e-3
    sharp.save_safetensors(tmp_path / "sharp.safetensors")
    again = KL_VAE.load(tmp_path / "sharp.safetensors")
    assert again.fingerprint() == sharp.fingerprint() and torch.equal(again.decode(latents), sharp.decode(latents))


def test_a_decoder_is_tuned_once_more_and_still_has_the_first_latents(tuned, tmp_path):
    data, split, plain, sharp = tuned
    main(data, tmp_path / "again.pt", split, finetune_decoder=sharp, num_steps=1, batch_size=4, device="cpu")
    assert KL_VAE.load(tmp_path / "again.pt").fingerprint() == KL_VAE.load(plain).fingerprint()


def test_a_vae_that_has_seen_other_images_does_not_say_that_it_has_seen_only_these(tuned, tmp_path):
    data, split, plain, _ = tuned
    vae = KL_VAE.load(plain)
    vae.trained_on = "of another split"
    vae.save_safetensors(tmp_path / "other.safetensors")
    main(data, tmp_path / "new.pt", split, finetune_decoder=tmp_path / "other.safetensors", num_steps=1, device="cpu")
    assert KL_VAE.load(tmp_path / "new.pt").trained_on is None


def test_options_of_the_tuned_vae_may_be_given_and_others_are_refused(tuned, tmp_path):
    data, split, plain, _ = tuned
    options = {"finetune_decoder": plain, "num_steps": 1, "device": "cpu"}
    for given, words in (
            ({"image_size": 32}, r"plain.pt was trained with --image_size 16 \(now 32\); leave these options out"),
            ({"ch": 128, "channels": 1}, r"--ch 8 \(now 128\), --channels 3 \(now 1\)"),   # 128: the default
            ({"ch_mult": [1, 2, 4]}, r"--ch_mult \(1, 2\) \(now \(1, 2, 4\)\)"),
            ({"kl_weight": 0.001}, "^--kl_weight is 0.001, .* leave it out")):
        with pytest.raises(InputError, match=words):
            main(data, tmp_path / "new.pt", split, **options, **given)
    assert not (tmp_path / "new.pt").exists()
    main(data, tmp_path / "new.pt", split, **options, image_size=16, ch=8, ch_mult=(1, 2), num_res_blocks=1,
         latent_channels=4, channels=3)
    assert KL_VAE.load(tmp_path / "new.pt").image_size == 16


def test_options_that_contradict_each_other_are_named(tmp_path):
    data, split = write_data(tmp_path)
    for options, words in (
            ({"finetune_decoder": tmp_path / "a.pt", "adversarial_start": 3}, "and no --finetune_decoder"),
            ({"adversarial_start": 5, "num_steps": 5}, "^--adversarial_start is 5; .* below --num_steps 5"),
            ({"adversarial_start": -1}, "^--adversarial_start is -1"),
            ({"adversarial_weight": 0.0}, "^--adversarial_weight is 0.0; expected more than 0$"),
            ({"finetune_decoder": tmp_path / "absent.pt"}, "absent.pt does not exist")):
        with pytest.raises(InputError, match=words):
            main(data, tmp_path / "b.pt", split, device="cpu", **options)


def test_a_resumed_run_must_tune_the_same_vae(tuned, tmp_path):
    _, _, plain, _ = tuned
    settings = {**SETTINGS, "num_steps": 1, "adversarial_start": 0, "adversarial_weight": 0.5}
    vae = KL_VAE.load(plain)
    train_vae(stripes(8), stripes(4), output=tmp_path / "new.pt", **settings, finetune=vae)
    other = KL_VAE.load(plain)
    nn.init.constant_(other.decoder.conv_out.bias, 0.1)
    with pytest.raises(InputError, match="--finetune_decoder"):
        train_vae(stripes(8), stripes(4), output=tmp_path / "new.pt", resume=True, **settings, finetune=other)
