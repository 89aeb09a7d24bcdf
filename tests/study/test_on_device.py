"""Classifiers on a CUDA device: batches are those of the CPU, nothing waits for the device, and a CUDA graph computes
what single kernels do. Without CUDA, PyTorch's meta and fake devices and a stand-in for the graph take its place."""
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from toys import toy_set

from groundwork import cuda_graph
from groundwork.cuda_graph import Graphed, set_lr
from groundwork.device import half_precision
from groundwork.memory import free_memory
from microdoppler.data.stitching import shift_in_doppler
from microdoppler.study import arms, classifier
from microdoppler.study.arms import Arm, ImageSet
from microdoppler.study.augmentation import (SuccessorIndex, _median_colour, cut_mix, mix_up, shift_and_mask,
                                             shift_in_time)
from microdoppler.study.classifier import Update, build_classifier, features, predict, train_classifier
from microdoppler.study.kinds import KINDS
from microdoppler.study.networks import plan_network
from microdoppler.study.recipe import Recipe

CPU, META = torch.device("cpu"), torch.device("meta")
CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
RECIPE = Recipe(epochs=3, batch_size=8, lr=1e-3)
SENDERS = ("microdoppler.data.stitching.send", "microdoppler.study.augmentation.send")
AUGMENTED = ["real only", "real + synthetic", "real + classical + synthetic", "real + MixUp", "real + CutMix"]


def chained(count: int, seed: int) -> ImageSet:
    """Toy images of which each but the last overlaps with the next."""
    images = toy_set(count // 2, seed)
    hop = torch.full((count,), 8)
    hop[-1] = 0
    return ImageSet(images.images, images.labels, SuccessorIndex((torch.arange(count) + 1).clamp_max(count - 1), hop))


def arm_of(kind: str) -> Arm:
    return Arm(KINDS[kind], chained(16, seed=0), chained(12, seed=1) if KINDS[kind].added else None)


@pytest.mark.parametrize("mixing", ["shares", "concat"])
@pytest.mark.parametrize("kind", AUGMENTED)
def test_a_device_gets_the_random_numbers_of_the_cpu(kind, mixing, monkeypatch):
    """On the meta device nothing is computed; what is sent to it is all that a device makes a batch from."""
    def sent_to(device):
        found = []

        def record(tensor, target):
            assert target == device and tensor.device == CPU
            found.append(tensor.clone())
            return tensor.to(target)
        for name in SENDERS:
            monkeypatch.setattr(name, record)
        recipe = Recipe(epochs=3, batch_size=8, lr=1e-3, mixing=mixing)
        batches = list(arm_of(kind).batches(recipe, 2, 3, device))
        assert all(images.device == device and images.shape == (8, 3, 32, 32) for images, _ in batches)
        return [*found, *(targets for _, targets in batches)]
    monkeypatch.setattr(arms, "free_memory", lambda _: 2 ** 30)
    on_cpu, on_meta = sent_to(CPU), sent_to(META)
    assert len(on_cpu) == len(on_meta) > 6 and all(map(torch.equal, on_cpu, on_meta))


def test_images_that_would_take_much_of_the_devices_memory_stay_on_the_cpu(monkeypatch):
    size = 28 * 3 * 32 * 32
    for free, expected in ((4 * size, META), (4 * size - 1, CPU)):
        monkeypatch.setattr(arms, "free_memory", lambda _, free=free: free)
        images, targets = next(arm_of("real + synthetic").batches(RECIPE, 2, 0, META))
        assert images.device == expected and targets.device == CPU


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_waits_for_the_device(channels, monkeypatch):
    """A fake CUDA device has no values: reading one, or a shape that depends on one, raises; so does mixing devices."""
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    with FakeTensorMode(allow_non_fake_inputs=True):
        generator, targets = torch.Generator(), torch.rand(6, 2)
        images = torch.empty(9, channels, 32, 24, dtype=torch.uint8, device="cuda")
        successors = SuccessorIndex((torch.arange(9) + 1) % 9, torch.full((9,), 8))
        made = shift_in_time(images, torch.arange(6), successors, generator)
        for batch in (made, shift_and_mask(made, generator), mix_up(made, targets, generator)[0],
                      cut_mix(made, targets, generator)[0]):
            assert batch.device.type == "cuda" and batch.dtype == torch.uint8 and batch.shape == (6, channels, 32, 24)


@pytest.mark.parametrize("height, width", [(8, 8), (7, 9), (40, 32)])
def test_masks_have_the_lower_median_of_each_channel(height, width):
    images = torch.randint(0, 256, (20, 3, height, width), dtype=torch.uint8)
    middle = (height * width - 1) // 2
    expected = [[sorted(channel.flatten().tolist())[middle] for channel in image] for image in images]
    assert _median_colour(images)[:, :, 0, 0].tolist() == expected


def test_a_shift_in_doppler_moves_each_image_by_its_own_rows():
    images, rows = torch.randint(0, 256, (5, 3, 6, 4), dtype=torch.uint8), torch.tensor([0, 2, -1, 9, -9])
    shifted = shift_in_doppler(images, rows)
    for image, moved, by in zip(images, shifted, rows.tolist()):
        assert all(torch.equal(moved[:, row], image[:, min(max(row - by, 0), 5)]) for row in range(6))


class EmulatedGraph:
    """Does on the CPU what a CUDA graph does: computes on copies of its inputs, at fixed addresses, only after the
    warm-up. But it runs Python again in every step: see `test_a_graph_reads_the_learning_rate_from_the_device`."""

    def __init__(self, function, inputs, device, generators):
        self.function, self.inputs = function, {name: value.clone() for name, value in inputs.items()}
        self.replays = 0
        for _ in range(cuda_graph.NUM_WARM_UPS):
            function(self.inputs)

    def __call__(self, inputs):
        self.replays += 1
        for name, value in inputs.items():
            self.inputs[name].copy_(value)
        return self.function(self.inputs)


def test_a_graph_reads_the_learning_rate_from_the_device(monkeypatch):
    """A graph does not run Python again: a new tensor, or a number, would not reach it. The device is fake, and has no
    values for an optimizer to look at."""
    monkeypatch.setattr(classifier, "grad_scaler", lambda device: torch.amp.GradScaler(enabled=False))
    monkeypatch.setattr(torch.optim, "AdamW", lambda _, **options: SimpleNamespace(param_groups=[options]))
    with FakeTensorMode(allow_non_fake_inputs=True):
        update = Update(torch.nn.Linear(2, 2, device="cuda"))
        group, = update.optimizer.param_groups
        lr = group["lr"]
        set_lr(update.optimizer, 1e-3)
    assert group["lr"] is lr and lr.device.type == "cuda" and group["capturable"]


@pytest.fixture
def emulated_graphs(monkeypatch):
    """Lets classifiers on the CPU be trained with stand-ins for CUDA graphs, which it lists."""
    made = []

    class OnTheCPU(Graphed):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.enabled = True
            made.append(self.graphs)
    monkeypatch.setattr(classifier, "Graphed", OnTheCPU)
    monkeypatch.setattr(cuda_graph, "Graph", EmulatedGraph)
    for name in ("current_stream", "set_stream", "synchronize", "device"):
        monkeypatch.setattr(torch.cuda, name, nullcontext)
    return made


def trained(network: str = "resnet18", device: torch.device = CPU, kind: str = "real + classical"):
    arm = arm_of(kind)
    return train_classifier(arm.batches(RECIPE, 2, 1, device), network=plan_network(network, 32), num_classes=2,
                            num_steps=arm.num_steps(RECIPE), lr=RECIPE.lr, seed=1, device=device)


def weights(model) -> Tensor:
    """Everything that a model keeps, as one vector on the CPU."""
    return torch.cat([value.detach().double().cpu().flatten() for value in model.state_dict().values()])


@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v3_small"])
def test_a_capture_leaves_no_trace(network, emulated_graphs, monkeypatch):
    """Warm-up steps change weights, batch statistics, the optimizer's state and, by dropout, the generator."""
    graphed = weights(trained(network))
    assert [graph.replays for graphs in emulated_graphs for graph in graphs.values()] == [5]    # of 6 steps
    monkeypatch.setattr(classifier, "Graphed", Graphed)
    assert torch.equal(graphed, weights(trained(network)))


def scaled_update() -> Update:
    """An update with a scaler as for float16, on the CPU, that doubles its scale after every second step."""
    update = Update(build_classifier(plan_network("resnet18", 32), 2, seed=0).train())
    update.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=2)
    set_lr(update.optimizer, 1e-3)
    return update


def test_the_scaler_too_is_as_before_a_capture(emulated_graphs):
    data, results = toy_set(4, seed=0), []
    batch = {"images": data.images, "targets": torch.eye(2)[data.labels]}
    for use_graph in (False, True):
        update = scaled_update()
        update(batch)
        run = classifier.Graphed(update, CPU, generators=[], state=update.state) if use_graph else update
        for _ in range(4):
            run(batch)
        results.append((update.scaler.get_scale(), *update.state))
    assert results[0][0] == results[1][0] == 4096 and all(map(torch.equal, results[0][1:], results[1][1:]))


def test_a_step_whose_gradients_overflow_is_left_out():
    update, data = scaled_update(), toy_set(4, seed=0)
    targets = torch.eye(2)[data.labels]
    update({"images": data.images, "targets": targets})
    before = [parameter.detach().clone() for parameter in update.model.parameters()]
    update({"images": data.images, "targets": targets * torch.inf})
    assert all(map(torch.equal, before, update.model.parameters())) and update.scaler.get_scale() == 512


def test_memory_that_runs_out_in_a_capture_halves_the_parts(emulated_graphs, monkeypatch, capsys):
    class TooLarge(EmulatedGraph):
        def __init__(self, function, inputs, device, generators):
            if function.parts.size > 4:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            super().__init__(function, inputs, device, generators)
    monkeypatch.setattr(cuda_graph, "Graph", TooLarge)
    assert weights(trained()).isfinite().all()
    assert "from here on 4 images at a time" in capsys.readouterr().out
    assert [graph.replays for graphs in emulated_graphs for graph in graphs.values()] == [5]


@pytest.mark.cuda
@pytest.mark.parametrize("kind", AUGMENTED)
def test_cuda_sees_the_batches_of_the_cpu(kind):
    """Blended pixels may differ by one level, where the rounding of a product decides."""
    device = torch.device("cuda", 0)
    assert free_memory(device) > 2 ** 20
    for (images, targets), (ours, own_targets) in zip(arm_of(kind).batches(RECIPE, 2, 3),
                                                      arm_of(kind).batches(RECIPE, 2, 3, device), strict=True):
        assert ours.is_cuda and torch.equal(targets, own_targets)
        difference = (images.int() - ours.cpu().int()).abs()
        assert difference.max() <= 1 and difference.float().mean() < 1e-3


@pytest.mark.cuda
@pytest.mark.parametrize("network", ["resnet18", "mobilenet_v3_small"])
def test_a_cuda_graph_trains_as_single_kernels_do(network, monkeypatch, capsys):
    device = torch.device("cuda", 0)
    graphed = trained(network, device)
    assert "no CUDA graph" not in capsys.readouterr().out
    monkeypatch.setattr(classifier, "Graphed", lambda *own, **options: Graphed(*own, **options, enabled=False))
    eager, start = trained(network, device), build_classifier(plan_network(network, 32), 2, seed=1)
    error, change = weights(graphed) - weights(eager), weights(eager) - weights(start)
    assert error.norm() < 0.1 * change.norm()
    images = chained(16, seed=0).images
    torch.testing.assert_close(predict(graphed, images), predict(eager, images), atol=0.05, rtol=0)


@pytest.mark.cuda
def test_no_step_waits_for_the_device():
    device, modes = torch.device("cuda", 0), []
    arm = arm_of("real + classical + synthetic")

    def forbid_waiting():       # after the steps that capture, and until the last
        modes.append(torch.cuda.get_sync_debug_mode())
        torch.cuda.set_sync_debug_mode("error" if 2 <= len(modes) < 6 else "default")
    try:
        train_classifier(arm.batches(RECIPE, 2, 1, device), network=plan_network("resnet18", 32), num_classes=2,
                         num_steps=arm.num_steps(RECIPE), lr=1e-3, seed=1, device=device, on_step=forbid_waiting)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(modes) == 6 and torch.cuda.current_stream(device).query()     # the end waits: its time is measured


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_predictions_and_features_lie_on_the_cpu(device):
    model = build_classifier(plan_network("resnet18", 32), 2, seed=0).to(device).eval()
    images = toy_set(4, seed=0).images
    assert predict(model, images, batch_size=3).device == features(model, images, batch_size=3).device == CPU


@pytest.mark.cuda
def test_cuda_learns_what_can_be_seen():
    device, arm, test = torch.device("cuda", 0), Arm(KINDS["real only"], toy_set(16, seed=0)), toy_set(16, seed=1)
    recipe = Recipe(epochs=15, batch_size=8, lr=1e-3)
    model = train_classifier(arm.batches(recipe, 2, 0, device), network=plan_network("resnet18", 32), num_classes=2,
                             num_steps=arm.num_steps(recipe), lr=recipe.lr, seed=0, device=device)
    assert half_precision(device) is not None and (predict(model, test.images).argmax(1) == test.labels).all()
