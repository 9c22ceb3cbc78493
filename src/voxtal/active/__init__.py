"""Rounds: what to label next, and what to train on then."""
