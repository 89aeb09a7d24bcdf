"""Observe a training run: metrics of its milestones, diagnosis, plot, terminal screen and HTML page."""
