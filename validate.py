#!/usr/bin/env python3
"""Measure a timm model: python validate.py --model resnet50 --checkpoint FILE --data-dir DIR; see --help."""

import sys

from timm_debias.cli import run

if __name__ == '__main__':
    sys.exit(run('validate'))
