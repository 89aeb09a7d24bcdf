"""Installation. Only lower bounds, so that a notebook's own torch is never replaced."""
from setuptools import find_packages, setup

setup(
    name="microdoppler-diffusion",
    version="0.1.0",
    description="Latent diffusion that generates micro-Doppler spectrograms of walking persons, and measures their use",
    license="MIT",
    python_requires=">=3.10",
    packages=find_packages(include=["denoising_diffusion_pytorch", "groundwork", "microdoppler*", "vae"]),
    py_modules=["train_latent_cfg"],        # Config; the other scripts' names could be those of a user's own files
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.24",
        "scipy>=1.12",          # ShortTimeFFT
        "einops>=0.7",
        "accelerate>=0.25",
        "safetensors>=0.4.3",   # weights to share; accelerate brings it along
        "pillow>=10.1",
        "tqdm>=4.65",
        "filelock>=3.24",       # one writer per folder; before, it took no notice of a lock file that is gone
        "tyro>=0.9.1",          # command lines out of dataclasses and functions
        "psutil>=5.9",          # memory and processes on all systems; accelerate brings it along
        "pydantic>=2.5",        # limits of the constants, and those to and from JSON
        "matplotlib>=3.7",      # figures
        "jinja2>=3.1",          # report.html, escaped
        "rich>=13.0",           # monitor_training.py --watch: a screen that is drawn over
        "scikit-learn>=1.2",    # scores
        "loky>=3.4",            # a process that reads .mat files, and is replaced when one of them ends it
    ],
    extras_require={"onnx": [
        "torch>=2.5",               # torch.onnx.export(dynamo=True)
        "onnx>=1.16",
        "onnxscript>=0.1",          # torch's exporter needs it
    ], "unpack": [
        "datasets>=3.0",            # Hugging Face's data sets
    ], "convert": [
        "h5py>=3.8",                # .mat recordings of version 7.3; all others are read without it
    ], "app": [
        "gradio>=6.0",              # the page of microdoppler.app; it takes Pillow below 13
    ], "docs": [
        "mkdocs>=1.6",              # the pages as a site
        "mkdocs-material>=9.5",     # its theme
    ], "test": [
        "pytest>=7.4",
        "hypothesis>=6.80",
        "ema-pytorch>=0.7",     # the reference's average of the weights, which ours is compared with
        "pytest-xdist>=3.5",    # as many tests at once as there are cores
        "ruff>=0.4",
        "mypy>=1.18",           # 1.15 misreads torch.autograd.Function
        "h5py>=3.8",            # as the extra convert
        "onnx>=1.16",           # as the extra onnx
        "onnxscript>=0.1",
        "onnxruntime>=1.18",    # computes what was written
        "diffusers>=0.30",      # the VAEs that it writes, and that are written for it
        "datasets>=3.0",        # as the extra unpack; reads synthetic folders as other people's programs do
        "tensorboard>=2.10",    # reads what training tells it
        "nbclient>=0.6",        # runs the notebook
        "nbformat>=5.1",        # cells with ids
        "ipykernel>=6.0",       # that it runs in
    ]},
)
