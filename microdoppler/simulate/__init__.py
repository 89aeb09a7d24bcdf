"""Simulated data sets: a walking person, a drone or a hand in front of a radar."""
