"""How similar to real images, how diverse and how new synthetic images are, and whether their gait is right."""
