"""The yardsticks: a perfect generator lies within the interval of real images, and one with a known fault outside."""
import numpy as np
import pytest
import torch
from generators import USERS, blurring, collapsed, copying, network_that_knows, walking, windows

from microdoppler.fidelity import two_sample
from microdoppler.fidelity.gait_physics import describe_gait
from microdoppler.fidelity.measure import EvaluatedSet, compare_user, measure, plain
from microdoppler.fidelity.report import GAIT, METRICS, TOLD, overview_figure, place, sentences, tables
from microdoppler.fidelity.sample_evaluator import SampleEvaluator
from microdoppler.fidelity.texture import power_spectra, speckle_contrast
from microdoppler.fidelity.two_sample import TwoSample, two_sample_test
from microdoppler.fidelity.yardsticks import NUM_HALVINGS, Comparison, compare_features, compare_values, random_halves
from microdoppler.simulate.gait import AXES
from microdoppler.study.arms import ImageSet
from microdoppler.study.copies import CopyDetector

# {generator: {metric that tells its fault: where its value must lie}}. The perfect one lies within every interval.
BLUR = {"speckle": "below", "radial": "above", "doppler": "above"}
FAULTS: dict[str, dict[str, str]] = {
    "perfect": {},
    "collapsed to 1": {"recall": "below", "diversity": "below"},
    "collapsed to 2": {"recall": "below", "diversity": "below"},
    "all copies": {"copies": "above", "nearest": "below"},
    "a quarter copies": {"copies": "above"},
    "much blurred": {"kid": "above", "precision": "below", "recall": "below", "recognised": "below", **BLUR},
    "blurred": {"kid": "above", "precision": "below", "recall": "below", **BLUR},
    "hardly blurred": BLUR}


def evaluated(images: ImageSet, groups: np.ndarray, evaluator: SampleEvaluator) -> EvaluatedSet:
    recognised = evaluator.probabilities(images.images).argmax(dim=1) == images.labels
    return EvaluatedSet(images, list(map(str, range(len(groups)))), evaluator.features(images.images), groups,
                        {"recognised": recognised.numpy(), "speckle": speckle_contrast(images.images).numpy()},
                        power_spectra(images.images))


@pytest.fixture(scope="session")
def walkers():
    """(evaluator, {generator: its images}, held-out images and their passes) of simulated persons."""
    (training, passes), (held_out, held_out_passes), (perfect, _) = map(windows, ("training", "held-out", "new"))
    made = {"perfect": perfect, "collapsed to 1": collapsed(perfect, 1), "collapsed to 2": collapsed(perfect, 2),
            "all copies": copying(perfect, training, passes, 1.0),
            "a quarter copies": copying(perfect, training, passes, 0.25),
            "much blurred": blurring(perfect, 1.5), "blurred": blurring(perfect, 1.0),
            "hardly blurred": blurring(perfect, 0.4)}
    return SampleEvaluator(network_that_knows(training), training, held_out, held_out_passes), made


@pytest.fixture(scope="session")
def reports(walkers):
    """{generator: result of measure}."""
    evaluator, made = walkers
    real = evaluated(evaluator.held_out, evaluator.held_out_passes, evaluator)
    users, detector = list(range(1, USERS + 1)), CopyDetector(evaluator.training)
    return {name: measure(real, evaluated(images, np.arange(len(images.labels)).astype(str), evaluator), detector, None,
                          users) for name, images in made.items()}


@pytest.mark.parametrize("metric", [name for name in METRICS if name not in {**TOLD, **GAIT}])
def test_a_perfect_generator_lies_within_and_a_fault_outside_on_its_side(reports, metric):
    assert place(reports["perfect"]["all"], metric) == "within"
    faulty = {name: side for name, faults in FAULTS.items() for fault, side in faults.items() if fault == metric}
    assert {name: place(reports[name]["all"], metric) for name in faulty} == faulty and faulty


def where_the_walk_lies(images: ImageSet) -> dict[str, str]:
    """{metric of the walk: where the mean over users lies}, beside the held-out images."""
    (held_out, passes), groups = windows("held-out"), np.arange(len(images.labels))
    real, synthetic = (EvaluatedSet(own, [""] * len(names), np.zeros((len(names), 1)), names,
                                    describe_gait(own.images.numpy(), AXES), {})
                       for own, names in ((held_out, passes), (images, groups)))
    rng = np.random.default_rng(0)
    of_users = [compare_user(real.subset(held_out.labels == user), synthetic.subset(images.labels == user), rng)
                for user in range(USERS)]
    overall = plain({name: Comparison.mean_over_users([one[name] for one in of_users]) for name in (*GAIT, "kid")})
    return {name: place(overall, name) for name in GAIT}


@pytest.mark.parametrize("steps, speed, expected", [
    (1.0, 1.0, {}), (1.1, 1.0, {"cadence_hz": "above"}), (1.2, 1.0, {"cadence_hz": "above"}),
    (0.9, 1.0, {"cadence_hz": "below"}), *((1.0, speed, dict.fromkeys((
        "torso_mps", "torso_variation_mps", "doppler_spread_mps"), "above")) for speed in (1.15, 1.3))])
def test_the_walk_of_a_perfect_generator_lies_within_and_another_pace_outside(steps, speed, expected):
    found = where_the_walk_lies(walking(windows("new")[0], steps, speed))
    assert {name: found[name] for name in expected} == expected
    assert expected or set(found.values()) == {"within"}


def told(evaluator: SampleEvaluator, images: ImageSet, groups: np.ndarray) -> TwoSample:
    """The two-sample test of these images and the held-out ones."""
    return two_sample_test(evaluator.held_out, list(evaluator.held_out_passes), images, groups.astype(str).tolist(),
                           device=torch.device("cpu"), label="telling")


def test_a_network_tells_blurred_images_from_real_ones_and_those_of_a_perfect_generator_no_better_than_training_images(
        walkers, monkeypatch):
    monkeypatch.setattr(two_sample, "MAX_STEPS", 40)
    evaluator, made = walkers
    groups = np.arange(len(made["perfect"].labels))
    real = told(evaluator, evaluator.training, windows("training")[1])
    low, high = real.interval
    assert low <= told(evaluator, made["perfect"], groups).auc <= high < 0.9
    assert all(told(evaluator, made[name], groups).auc > 0.95 for name in ("hardly blurred", "much blurred"))


def test_the_report_says_how_many_figures_lie_within_and_which_do_not(reports):
    report = reports["blurred"] | {"names": {user: f"user {user}" for user in range(1, USERS + 1)}}
    assert any("within the interval" in said and "below it: precision, recall" in said and "above it: KID" in said
               for said in sentences(report))
    overall, of_users = tables(report)[:2]
    rows = {row[0]: row for row in overall.rows}
    assert rows["KID"][-1] == "above" and rows["speckle contrast"][-1] == "below" and "…" in rows["recall"][3]
    assert all("↓ | 1.00" in row[-3] and "↑ | 0." in row[-2] for row in of_users.rows)
    dots = [line for line in overview_figure(report).axes[0].lines if line.get_marker() == "o"]
    assert {line.get_color() for line in dots} == {"tab:orange", "tab:red"}


def test_the_right_value_at_a_milestone_is_that_of_held_out_images_and_not_one(walkers):
    """The network knows the training images by heart, so that other images lie farther apart in it."""
    evaluator, made = walkers
    right, perfect = evaluator.yardstick(range(USERS)), evaluator.evaluate(made["perfect"])
    assert right["diversity"] > 1.5 and perfect["diversity"] == pytest.approx(right["diversity"], rel=0.15)
    assert perfect["recognised"] == pytest.approx(right["recognised"], abs=0.05)
    assert right["count"] == len(evaluator.held_out.labels) > evaluator.yardstick([1])["count"] > 0
    assert right["copies"] == perfect["copies"] == 0 < evaluator.evaluate(made["a quarter copies"])["copies"]
    assert evaluator.evaluate(made["collapsed to 2"])["diversity"] < 0.5 * right["diversity"]
    assert SampleEvaluator(evaluator.classifier, evaluator.training).yardstick(range(USERS)) == {}
    one_pass = evaluator.held_out_passes == evaluator.held_out_passes[0]
    alone = SampleEvaluator(evaluator.classifier, evaluator.training,
                            ImageSet(evaluator.held_out.images[one_pass], evaluator.held_out.labels[one_pass]),
                            evaluator.held_out_passes[one_pass])
    assert np.isnan(alone.yardstick([0])["diversity"]) and alone.yardstick([1]) == {}


def test_halves_are_of_whole_passes_and_each_plays_both_parts():
    halves = random_halves(5, np.random.default_rng(0))
    assert halves.shape == (NUM_HALVINGS, 5) and set(halves.sum(axis=1)) == {2, 3}
    assert (halves[:NUM_HALVINGS // 2] == ~halves[NUM_HALVINGS // 2:]).all()
    assert len({tuple(row) for row in halves}) == 20        # all divisions: 2 x (5 choose 2)


def test_the_interval_is_that_of_independent_sets_of_half_the_size():
    """100 passes of one value each, a share of 0.2: halves of 50 differ by sqrt(0.2 · 0.8 · 4 / 100) = 0.08."""
    values = np.arange(100) % 5 == 0
    comparison = compare_values(values, np.ones(10), random_halves(100, np.random.default_rng(0)), np.mean)
    low, high = comparison.interval
    assert comparison.real == pytest.approx(0.2) and comparison.synthetic == 1
    assert high - low == pytest.approx(2 * 1.96 * 0.08, rel=0.2) and (low + high) / 2 == pytest.approx(0.2, abs=0.02)


def test_the_interval_of_a_share_ends_at_all_and_nothing(reports):
    for name in ("recognised", "copies"):
        low, high = reports["perfect"]["all"]["interval"][name]
        assert 0 <= low <= high <= 1


def test_windows_that_overlap_do_not_flatter_synthetic_images():
    """Ten windows of each of ten passes, a perfect generator with one of each of 50 passes: recall and precision are
    the same for both in the mean of many such sets. With neighbours of the own pass, recall was 0.9 against 0.6."""
    rng, found = np.random.default_rng(0), []
    passes = np.repeat(np.arange(10), 10)
    for _ in range(10):
        def of_passes(count: int, each: int) -> np.ndarray:
            return np.repeat(rng.normal(size=(count, 3)), each, axis=0) + 0.7 * rng.normal(size=(count * each, 3))
        comparisons = compare_features(of_passes(10, 10), of_passes(50, 1), passes, np.arange(50),
                                       random_halves(10, rng)[::8], rng)
        found.append([(one.synthetic, one.real) for one in comparisons.values()])
    precision, recall, diversity, _ = np.mean(found, axis=0)
    assert precision[0] == pytest.approx(precision[1], abs=0.06) and recall[0] == pytest.approx(recall[1], abs=0.06)
    assert diversity == pytest.approx(1, abs=0.1)


def test_variations_of_one_training_image_are_no_variety():
    """Forty images, ten variations of each of four: beside the same forty, if it is not known, they look varied."""
    rng, passes = np.random.default_rng(1), np.repeat(np.arange(8), 5)
    real = rng.normal(size=(40, 3))
    varied = np.repeat(rng.normal(size=(4, 3)), 10, axis=0) + 0.05 * rng.normal(size=(40, 3))
    groups, halves = np.repeat(np.arange(4), 10), random_halves(8, rng)
    known, unknown = (compare_features(real, varied, passes, own, halves, np.random.default_rng(2))
                      for own in (groups, np.arange(40)))
    spread = [np.linalg.norm(a - b) for i, a in enumerate(varied) for j, b in enumerate(varied) if i // 10 != j // 10]
    of_real = [np.linalg.norm(a - b) for i, a in enumerate(real) for j, b in enumerate(real) if i // 5 != j // 5]
    assert known["diversity"].synthetic == pytest.approx(np.mean(spread) / np.mean(of_real))
    assert np.isfinite(unknown["recall"].synthetic) and unknown["recall"].synthetic < 0.3


def test_a_user_with_one_pass_has_no_yardstick_and_is_left_out_of_the_mean():
    rng = np.random.default_rng(0)
    def of_passes(count: int) -> EvaluatedSet:
        images = ImageSet(torch.zeros(12, 3, 8, 8, dtype=torch.uint8), torch.zeros(12, dtype=torch.int64))
        return EvaluatedSet(images, [], rng.normal(size=(12, 4)), np.repeat(np.arange(count), 12 // count),
                            {"recognised": np.arange(12) % 4 > 0}, power_spectra(images.images))
    one_pass, six = compare_user(of_passes(1), of_passes(12), rng), compare_user(of_passes(6), of_passes(12), rng)
    assert not one_pass["kid"].is_known and one_pass["kid"].interval is None
    assert one_pass["recognised"].real == 0.75 and one_pass["recognised"].interval is None
    for metric in ("kid", "recognised", "radial"):
        mean = Comparison.mean_over_users([one_pass[metric], six[metric]])
        assert mean.num_users == 1 and mean.synthetic == six[metric].synthetic
        assert mean.interval == pytest.approx(six[metric].interval)
    alone = Comparison.mean_over_users([one_pass["recognised"]])
    assert alone.real == 0.75 and alone.num_users == 1 and alone.interval is None
    assert np.isnan(Comparison.mean_over_users([one_pass["kid"]]).real)
