"""The notebook: run from start to end, twice, as a user's two sessions; and what is committed of it."""
import re
from pathlib import Path

import pytest

from groundwork.files import write_json
from microdoppler.simulate.dataset import simulate_dataset

nbformat = pytest.importorskip("nbformat")
NotebookClient = pytest.importorskip("nbclient").NotebookClient
pytest.importorskip("ipykernel")
from notebooks.kaggle_session import bring_over, find_attached  # noqa: E402

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "kaggle.ipynb"
TINY = dict(num_users=2, images_per_user_train=6, dim=16, train_num_steps=4, save_and_sample_every=2, log_every=1,
            num_samples=2, classifier_epochs=1, classifier_image_size=32, classifier_batch_size=4, classifier_seeds=1,
            sampling_timesteps=2, classifier="shufflenet_v2_x0_5", amp=False)


def run_session(attached, working, last="classify.main", **changes):
    """Run the cells with tiny parameters, to the one with `last` in it; returns what they printed, and how many
    pictures they show."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    del notebook.cells[1 + next(i for i, cell in enumerate(notebook.cells) if last in cell.source):]
    parameters = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    values = {"input_folder": str(attached), "working_folder": str(working), "changes": TINY | changes,
              "simulated_images_per_user": 14, "vae_num_steps": 4, "vae_ch": 8}
    assert all(re.search(rf"\b{name}\b", parameters.source) for name in values)
    parameters.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return ("".join(output["text"] for output in outputs if output.output_type == "stream"),
            sum("image/png" in output.get("data", ()) for output in outputs))


def test_a_second_session_goes_on_from_the_output_of_the_first(tmp_path):
    text, pictures = run_session(tmp_path / "nothing", tmp_path / "first")
    assert "walkers are simulated" in text and "wrote model-2.pt" in text and "resumed" not in text
    assert "12 images generated" in text and "not distinguishable" in text and pictures == 7

    (tmp_path / "input").mkdir()
    (tmp_path / "first").rename(tmp_path / "input" / "first")
    text, _ = run_session(tmp_path / "input", tmp_path / "second", last="train_latent_cfg.main", train_num_steps=6)
    assert "resumed at step 4" in text and "wrote model-3.pt" in text and "wrote model-1.pt" not in text
    assert sorted(file.name for file in (tmp_path / "second" / "results").glob("model-*.pt")) == [
        "model-1.pt", "model-2.pt", "model-3.pt"]


def test_what_is_attached_is_found(tmp_path):
    assert find_attached(tmp_path / "absent").data_path is None
    data = tmp_path / "owner" / "gait" / "Normal_line"
    simulate_dataset(data, 3, 4, 32)
    simulate_dataset(tmp_path / "owner" / "few", 2, 4, 32)
    for name in ("vae/kl_vae_best.pt", "vae/kl_vae_best_state.pt", "old/latents_cache/data_split.json",
                 "new/latents_cache/data_split.json", "new/results/model-9.pt", "old/results/model-10.pt",
                 "new/kl_vae_0.pt", "drawn/manifest.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    simulate_dataset(tmp_path / "old" / "data", 5, 4, 32)       # an earlier session's own, to be brought over
    simulate_dataset(tmp_path / "drawn", 5, 4, 32)              # synthetic
    found = find_attached(tmp_path)
    assert (found.data_path, found.num_users) == (data, 3)
    assert found.vae_path == tmp_path / "vae" / "kl_vae_best.pt"
    assert found.earlier == tmp_path / "old"
    for name, every in (("old", 400), ("new", 2000)):       # 4 000 steps, and 18 000
        write_json(tmp_path / name / "results" / "config.json", {"save_and_sample_every": every})
    assert find_attached(tmp_path).earlier == tmp_path / "new"


def test_bringing_over_keeps_what_is_there(tmp_path):
    for name in ("earlier/results/model-1.pt", "earlier/results/.lock", "earlier/kl_vae_best.pt",
                 "working/kl_vae_best.pt", "earlier/unrelated"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    for _ in range(2):
        bring_over(tmp_path / "earlier", tmp_path / "working")
    assert sorted(str(file.relative_to(tmp_path / "working")) for file in (tmp_path / "working").rglob("*")) == [
        "kl_vae_best.pt", "results", "results/model-1.pt"]
    assert (tmp_path / "working" / "kl_vae_best.pt").read_text() == "working/kl_vae_best.pt"


def test_a_mistake_is_told_in_one_line(capsys):
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    result = shell.run_cell("from groundwork.errors import InputError\nraise InputError('dim is 3; expected even')")
    assert not result.success and "Traceback" not in (told := capsys.readouterr().out)
    assert told.strip() == "error: dim is 3; expected even"


def test_the_committed_notebook_shows_a_whole_run():
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs for cell in cells)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))       # in one go
    outputs = [output for cell in cells for output in cell.outputs]
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert all(output.name == "stdout" for output in outputs if output.output_type == "stream")
    text = NOTEBOOK.read_text()
    folders = set(re.findall(r"(?<![\w./<])/([a-z]\w*)/", re.sub(r'"image/png": "[^"]*"', "", text)))
    assert folders <= {"kaggle", "tmp"} and len(text) < 1.5e6
