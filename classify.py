"""Step 5: does the synthetic data help? ResNet18 on real images alone, and on real + each synthetic set."""
from pathlib import Path

from assembly import open_split
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError, differences, shortened
from groundwork.files import read_json, write_json
from groundwork.images import load_images
from microdoppler.report import Picture, Section, render_report, save_figure
from microdoppler.spectrograms import find_users, labels_of, user_folders
from microdoppler.split import Split
from microdoppler.study import Arm, ImageSet, run_study, summarize
from microdoppler.study_report import accuracy_figure, conclusion, confusion_figure, results_table
from train_latent_cfg import PRESETS, Config, check_constants


def find_synthetic(folder: Path, num_users: int) -> dict[int, list[str]]:
    """The images of a folder that generate.py made: {user: relative paths}, for exactly the users 1 … num_users."""
    if not folder.is_dir():
        raise InputError(f"--synthetic {folder} is no folder; expected one made by generate.py, with ID_<n>/*.png")
    users, expected = set(user_folders(folder)), set(range(1, num_users + 1))
    missing, strange = ([f"ID_{user}" for user in sorted(some)] for some in (expected - users, users - expected))
    if not users:
        raise InputError(f"--synthetic {folder} holds no ID_<n> folder; expected ID_1 … ID_{num_users}, as generate.py "
                         "--all_users writes them")
    if missing:
        raise InputError(f"--synthetic {folder} lacks {shortened(missing)}; every arm needs all users "
                         f"1 … {num_users}: generate them with --all_users")
    if strange:
        raise InputError(f"--synthetic {folder} holds {shortened(strange)}, but num_users is {num_users}; "
                         "remove them, or give the folder that was made for these users")
    return find_users(folder, num_users)


def name_arms(folders: tuple[Path, ...]) -> list[str]:
    """'real + <folder name>', with as many parent folders as tell the folders apart."""
    paths = [folder.resolve() for folder in folders]
    twice = {str(path) for path in paths if paths.count(path) > 1}
    if twice:
        raise InputError(f"--synthetic names {', '.join(sorted(twice))} more than once; give each folder once")
    depth = 1
    while len({path.parts[-depth:] for path in paths}) < len(paths):
        depth += 1
    return [f"real + {Path(*path.parts[-depth:])}" for path in paths]


def check_manifest(folder: Path, split: Split) -> None:
    """Raises InputError when generate.py's manifest says that the model may have seen test images; warns when it says
    nothing of that, and of images that are missing. A folder without a manifest is taken as it is."""
    if not (folder / "manifest.json").exists():
        return
    manifest = read_json(folder / "manifest.json")
    if not (isinstance(manifest, dict) and all(isinstance(manifest.get(key, {}), dict) for key in ("split", "images"))):
        raise InputError(f"{folder / 'manifest.json'} is no manifest of generate.py; generate the set again")
    if not (trained_on := manifest.get("split")):
        print(f"warning: on which images {folder}'s model was trained is unknown; if test images were among them, its "
              "result is too good")
    elif other := differences(trained_on, split.identity()):
        raise InputError(f"{folder} comes from a model trained on another split: {other}; it may have seen images "
                         "that are tested on now: go back to those constants, or train on this split")
    absent = sum(not (folder / name).exists() for name in manifest.get("images", {}))
    if absent:
        print(f"warning: {folder} lacks {absent} of the {len(manifest['images'])} images of its manifest; "
              "run generate.py again to finish it")


def load_set(root: Path, images: dict[int, list[str]], image_size: int, label: str) -> ImageSet:
    paths, labels = labels_of(images)
    return ImageSet(load_images(root, paths, image_size, label), labels)


def main(config: Config, *, synthetic: tuple[Path, ...] = ()):
    """Train classifiers on real and synthetic images and compare them, step 5 of 5.

    Args:
        synthetic: folders that generate.py wrote, one arm each; none trains the baseline only
    """
    check_constants(config)
    device = choose_device(config.device)
    arm_names = name_arms(synthetic)
    found = [find_synthetic(folder, config.num_users) for folder in synthetic]
    split = open_split(config)
    for path in synthetic:
        check_manifest(path, split)

    size = config.classifier_image_size
    real = load_set(config.data_path, split.train_images, size, "real training images")
    test = load_set(config.data_path, split.test_images, size, "test images")
    arms = [Arm("real only", real)] + [
        Arm(name, real, load_set(folder, images, size, name))
        for name, folder, images in zip(arm_names, synthetic, found)]
    folder = config.results_folder / "classify"
    runs = run_study(
        arms, test, num_classes=config.num_users, device=device, folder=folder,
        seeds=range(config.seed, config.seed + config.classifier_seeds),
        recipe={"num_steps": config.classifier_steps, "batch_size": config.classifier_batch_size,
                "lr": config.classifier_lr})
    summary = summarize(runs)
    write_report(summary, config, arms, folder)
    print(f"\n{results_table(summary).as_text()}\n\n{conclusion(summary)}\n\nreport: {folder / 'report.html'}")
    return summary


def write_report(summary: dict, config: Config, arms: list[Arm], folder: Path) -> None:
    """summary.json, accuracy.png, confusion.png and report.html."""
    write_json(folder / "summary.json", summary)
    save_figure(accuracy_figure(summary), folder / "accuracy.png")
    save_figure(confusion_figure(summary), folder / "confusion.png")
    method = (f"ResNet18 without pretraining, {config.classifier_image_size} px, {config.classifier_steps} steps of "
              f"{config.classifier_batch_size} images in every arm, learning rate {config.classifier_lr}; "
              f"{len(arms[0].real.images)} real training images, {summary['num_test']} test images.")
    mix = [f"{arm.name}: {len(arm.synthetic.images)} synthetic images, mixed with the real ones uniformly."
           for arm in arms[1:]]
    render_report(folder / "report.html", "Does the synthetic data help?", [
        Section("Result", [conclusion(summary)], [results_table(summary)],
                [Picture(folder / "accuracy.png", "Test accuracy of each arm; dots are seeds, the line the baseline")]),
        Section("Who is mistaken for whom", pictures=[
            Picture(folder / "confusion.png", "Confusion of the baseline and of the best synthetic arm, all seeds")]),
        Section("Method", [method, *mix]),
    ])


if __name__ == "__main__":
    run(main, PRESETS, Config.preset)
