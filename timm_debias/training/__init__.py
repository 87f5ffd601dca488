"""Training: what `train.py` and `timm-debias train` run."""
