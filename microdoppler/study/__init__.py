"""The classifier study: arms, training runs, and the comparison that says whether synthetic images help."""
