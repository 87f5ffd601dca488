"""The command `timm-debias study`: a grid of runs, their benchmarks, and a report on them."""
