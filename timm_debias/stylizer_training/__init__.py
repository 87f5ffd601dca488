"""Training of style transfer networks: what `timm-debias train-stylizer` runs."""
