"""What a training run says about itself: milestones, diagnosis, plot, terminal screen and HTML page."""
