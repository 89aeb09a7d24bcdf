"""Simulated data sets: a walking body, a rotor or a hand in front of a radar."""
