"""Folders of image files: ordered and checked windows, their split, and their encoded latents."""
