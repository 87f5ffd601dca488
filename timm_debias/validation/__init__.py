"""Validation: what `validate.py` and `timm-debias validate` run."""
