"""python -m microdoppler.to_onnx: write a classifier as an ONNX file."""
from groundwork.command_line import run
from microdoppler.study.onnx_command import main

if __name__ == "__main__":
    run(main)
