"""From folders of image files to ordered, checked windows, their split, and their encoded latents."""
