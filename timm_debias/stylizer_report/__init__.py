"""The command `timm-debias stylizer-report`: what a stylizer really does."""
