"""Pictures, their axes and labels, animations, and HTML report pages."""
