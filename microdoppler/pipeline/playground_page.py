"""The page of python -m microdoppler.app, by Gradio. It is served to this computer only, and loads nothing from the
network."""
import html
import os
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator

from denoising_diffusion_pytorch.samplers import SAMPLERS
from groundwork.command_line import about_path
from groundwork.errors import InputError
from groundwork.limits import checks_arguments
from groundwork.progress import Progress, followed_by
from microdoppler.pipeline.generation import Sampling
from microdoppler.pipeline.playground import Playground
from train_latent_cfg import Config

ADDRESS = "127.0.0.1"       # this computer only: whoever reaches the page can use the device, and see training images
MOST_IMAGES = 16            # of each person
MOST_GUIDANCE = 10.0        # unless the checkpoint has more
# Before Gradio is imported: no reports to its makers, no list of earlier results in the browser.
SETTINGS = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False"}


class Cancelled(Exception):
    """The person at the page has pressed Cancel."""


@checks_arguments
def main(*, checkpoint: Path = Config.results_folder, vae_path: Path | None = None,
         latents_cache_folder: Path | None = None, device: str = "auto") -> None:
    """Show a page in the browser to try a checkpoint with: choose persons and constants, and see the images, the most
    similar training image of each, and whom the evaluation classifier takes it for.

    Only this computer can open the page. Ctrl-C ends it. Needs Gradio: pip install "gradio>=6.0".

    Args:
        checkpoint: model-<m>.pt, model.safetensors, or a folder with them, among which the page offers a choice
        vae_path: weights of the VAE; default: vae.safetensors beside model.safetensors, else the checkpoint's vae_path
        latents_cache_folder: the encoded training images, for a noise level below 1; default: the checkpoint's
        device: auto, cpu, cuda or cuda:<n>
    """
    with tempfile.TemporaryDirectory() as folder:
        page = build(Playground(checkpoint, Path(folder) / "images", device, vae_path, latents_cache_folder),
                     Path(folder) / "served")
        print(f"page: {serve(page)} (Ctrl-C ends it)", flush=True)
        page.block_thread()


def serve(page: Any) -> str:
    """Serve a page of `build` to this computer, until page.close(). Returns its address."""
    _, address, _ = page.launch(server_name=ADDRESS, share=False, ssr_mode=False, mcp_server=False, quiet=True,
                                footer_links=[], prevent_thread_lock=True)
    return address


def import_gradio(cache: Path) -> Any:
    """Gradio, set up to stay on this computer; cache: folder of the files that it serves. Raises InputError if it is
    not installed."""
    os.environ |= {**SETTINGS, "GRADIO_TEMP_DIR": str(cache)}
    try:
        import gradio
    except ImportError as error:
        raise InputError(f"the page needs Gradio ({error}): pip install \"gradio>=6.0\"") from None
    return gradio


def build(playground: Playground, cache: Path) -> Any:
    """The page, as Gradio's Blocks; cache: folder of the files that it serves. Raises InputError without Gradio."""
    gr = import_gradio(cache)
    is_cancelled = threading.Event()

    def begin() -> list:
        """What can be chosen, and the constants of the checkpoint; each time that the page is loaded."""
        with told_on_the_page(gr):
            checkpoints = playground.checkpoints()
            legend, own = playground.own_constants(checkpoints[0])
        persons = [(f"{user} {legend.names[user]}", user) for user in legend.users]
        return [gr.Dropdown([(path.name, str(path)) for path in checkpoints], value=str(checkpoints[0])),
                gr.Dropdown(persons, value=legend.users[:2]),
                gr.Slider(value=own.cond_scale, maximum=max(MOST_GUIDANCE, own.cond_scale or 0)), own.noise_level,
                own.sampler, own.sampling_timesteps, own.seed]

    def generate(checkpoint: str, users: list[int], count: int, cond_scale: float, noise_level: float, sampler: str,
                 sampling_timesteps: int | None, seed: int | None, is_compared: bool, progress: Any = gr.Progress()
                 ) -> list:
        def follow(bar: Progress) -> None:
            if is_cancelled.is_set():
                raise Cancelled
            progress((bar.n, bar.total), desc=bar.desc.removesuffix(": "), unit=f"{bar.unit}s")

        is_cancelled.clear()
        sampling = Sampling(noise_level, cond_scale, sampler=sampler, sampling_timesteps=sampling_timesteps, seed=seed)
        try:
            with told_on_the_page(gr), followed_by(follow):
                shown = playground.show(Path(checkpoint), users, count, sampling, is_compared)
        except Cancelled:
            gr.Info("Cancelled. The page still shows what it showed before.")
            return [gr.skip()] * 4
        return ["\n".join(shown.sentences), [str(path) for path in shown.pictures],
                gr.Dataframe(shown.table.rows, headers=list(shown.table.header)),
                gr.DownloadButton(value=shown.archive, interactive=True)]

    with gr.Blocks(title="Synthetic micro-Doppler spectrograms", analytics_enabled=False, fill_width=True) as page:
        with gr.Row():
            with gr.Column(scale=1, min_width=300):
                inputs = [
                    gr.Dropdown(label="Checkpoint"), gr.Dropdown(label="Persons", multiselect=True),
                    gr.Slider(1, MOST_IMAGES, 4, step=1, label="Images of each person"),
                    gr.Slider(0, MOST_GUIDANCE, step=0.1, label="Guidance", info="1: none; higher: more typical of the "
                              "person, and less varied"),
                    gr.Slider(0.01, 1, step=0.01, label="Noise level", info="1: from noise alone; below 1: from noised "
                              "training images"),
                    gr.Dropdown(list(SAMPLERS), label="Sampler"),
                    gr.Number(label="Sampling steps", precision=0, info="ddpm takes all timesteps"),
                    gr.Number(label="Seed", precision=0),
                    gr.Checkbox(True, label="Compare with the training images", info="The first time it takes longer: "
                                "the VAE encodes them, and a classifier is trained if there is none")]
                with gr.Row():
                    start, cancel = gr.Button("Generate", variant="primary"), gr.Button("Cancel", variant="stop")
            with gr.Column(scale=3):
                sentences = gr.Textbox(label="Result", interactive=False, lines=3)
                pictures = gr.Gallery(show_label=False, columns=3, height="auto", object_fit="contain", format="png")
                table = gr.Dataframe(label="Each image", headers=["image", "person"], interactive=False)
                download = gr.DownloadButton("Download the folder", interactive=False)
        page.load(begin, outputs=[*inputs[:2], *inputs[3:8]])
        start.click(generate, inputs, [sentences, pictures, table, download], show_progress_on=sentences)
        cancel.click(is_cancelled.set, queue=False)
    return page


@contextmanager
def told_on_the_page(gr: Any) -> Iterator[None]:
    """Shows InputError, and OSError about a path, on the page, with the sentences of the command line."""
    try:
        yield
    except (InputError, OSError) as error:
        if isinstance(error, OSError) and error.filename is None:
            raise
        said = about_path(error) if isinstance(error, OSError) else str(error)
        raise gr.Error(html.escape(said), duration=None, print_exception=False) from None
