"""Weights of classifiers: official checkpoints in, released models out, `timm.create_model` on all of them."""
