"""The command `timm-debias benchmark`: what debiased training costs beside plain training, measured and projected."""
