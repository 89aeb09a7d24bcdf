"""The base of all packages: user errors, atomic files, images, locks, devices, memory, seeds, command lines."""
