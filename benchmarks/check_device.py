"""Is the card all right, and how fast is it?  python -m benchmarks.check_device --json check.json"""
import dataclasses
import multiprocessing
import tempfile
import time
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any, Sequence

from benchmarks.checks import card, classifiers, images, memory, step, training, whole_way
from benchmarks.checks.check import TINY, Check, Setting
from benchmarks.checks.runner import Report, run_checks
from benchmarks.measure import FULL_SIZE
from groundwork.command_line import run
from groundwork.device import choose_device
from groundwork.errors import InputError
from groundwork.files import write_json

# In the order of their worth: whatever time there is leaves results. Seconds: about three times what an H100 needs.
CHECKS = (
    Check("card", card.versions, 60), Check("card", card.rates, 60),
    Check("gradients", step.gradients, 90), Check("step", step.weights_after_20_steps, 90),
    Check("step", step.milliseconds_per_step, 90), Check("step", step.kernels_per_step, 60, needs_cuda=True),
    Check("references", training.references, 90),
    Check("training", training.no_waiting_between_log_lines, 60),
    Check("training", training.broken_batches_are_skipped, 60), Check("training", training.roll_back, 60),
    Check("training", training.resume_to_the_bit, 60),
    Check("memory", memory.out_of_memory_in_training, 60, needs_cuda=True),
    Check("memory", memory.out_of_memory_in_a_capture, 60, needs_cuda=True),
    Check("memory", memory.failed_warm_up, 60, needs_cuda=True),
    Check("memory", memory.failed_capture, 60, needs_cuda=True),
    Check("memory", memory.training_without_a_graph, 60, needs_cuda=True),
    Check("images", images.drawing_latents, 90), Check("images", images.encoding_and_decoding, 90),
    Check("classifier", classifiers.classifier_step, 90),
    Check("way", whole_way.whole_way, 240),
    Check("speed", whole_way.speed, 240),
)
GROUPS = tuple(dict.fromkeys(check.group for check in CHECKS))


def main(*, device: str = "auto", json: Path | None = None, only: tuple[str, ...] = (), minutes: float = 8.0,
         tiny: bool = False) -> bool:
    """Check a device: kernels, training, memory and speed. Prints a line for each check; returns whether all passed.

    The checks run in the order of their worth, each with a time limit. On a CPU, those about CUDA are left out.

    Args:
        device: auto, cpu, cuda or cuda:<n>
        json: also write all figures to this file, after every check
        only: groups of checks: card, gradients, step, references, training, memory, images, classifier, way, speed
        minutes: checks that would start later than this are not run
        tiny: a tiny network and few steps: takes seconds on a CPU, and says nothing about speed
    """
    unknown = [group for group in only if group not in GROUPS]
    if unknown:
        raise InputError(f"--only {unknown[0]} is unknown; expected some of {', '.join(GROUPS)}")
    checks = [check for check in CHECKS if check.group in (only or GROUPS)]
    return check_all(checks, device, json, minutes, tiny)


def check_all(checks: Sequence[Check], device: str, json: Path | None, minutes: float, tiny: bool,
              context: BaseContext = multiprocessing.get_context("spawn")) -> bool:
    """Run these checks, print a line for each, and write the JSON file after each. Returns whether all passed."""
    started, found = time.monotonic(), dict[str, Any]()

    def report(check: Check, result: Report) -> None:
        found[check.name] = {"group": check.group, "verdict": result.verdict, **dataclasses.asdict(result)}
        print(f"{result.verdict:8}{check.name}: {result.line}  ({result.seconds:.1f} s)", flush=True)
        if not result.passed and result.output:
            print("        " + result.output.strip().replace("\n", "\n        "), flush=True)
        if json:
            write_json(json, {"minutes": (time.monotonic() - started) / 60, "checks": found})
    chosen = choose_device(device)
    left_out = [check.name for check in checks if check.needs_cuda and chosen.type != "cuda"]
    with tempfile.TemporaryDirectory() as folder:
        setting = Setting(chosen, TINY if tiny else FULL_SIZE, Path(folder))
        run_checks([check for check in checks if check.name not in left_out], setting, report,
                   deadline=started + 60 * minutes, context=context)
    if left_out:
        print(f"left out on {chosen}: {', '.join(left_out)}")
    counts = {verdict: sum(entry["verdict"] == verdict for entry in found.values())
              for verdict in ("pass", "FAIL", "not run")}
    print(", ".join(f"{count} {verdict}" for verdict, count in counts.items())
          + f", {(time.monotonic() - started) / 60:.1f} minutes" + (f"; written: {json}" if json else ""))
    return counts["pass"] == len(found)


if __name__ == "__main__":
    raise SystemExit(0 if run(main) else 1)
