"""Canned models: ordinary model_fns, written with the public names of the other two packages."""
