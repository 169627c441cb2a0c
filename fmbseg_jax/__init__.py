"""The trained half: a small Flax head over frozen patch features, learnt from free labels. No torch here."""
