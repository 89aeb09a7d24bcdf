"""From a radar's slow-time signal to image files: what simulated and measured recordings have in common."""
