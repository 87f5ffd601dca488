#!/usr/bin/env python3
"""Train a timm model: python train.py --debias --model resnet50 --data-dir DIR [timm's flags]; see --help."""

import sys

from timm_debias.cli import run

if __name__ == '__main__':
    sys.exit(run('train'))
