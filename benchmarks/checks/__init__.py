"""The checks of python -m benchmarks.check_device, in files by what they are about."""
