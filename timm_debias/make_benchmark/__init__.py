"""The command `timm-debias make-benchmark`: the field's tests of robustness, made from any image folder."""
