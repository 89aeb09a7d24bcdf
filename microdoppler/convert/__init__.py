"""Radar recordings become a data set of spectrograms."""
