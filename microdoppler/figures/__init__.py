"""Images of spectrograms with axes and labels, animations, and HTML reports."""
