"""Shape-texture debiased training for timm."""

__version__ = '0.1.0'
