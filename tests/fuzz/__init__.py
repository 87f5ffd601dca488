"""The fuzzing campaign: `python -m tests.fuzz` gives every reader of files and command lines what it does not expect.

Each input is either refused, by an error of one line, or accepted, and then what was read of it must be what another
reader says. Anything else is counted as a traceback or as a silent acceptance, and shown at its smallest. Nothing in an
input may be executed, and nothing written outside the input's folder.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # The tests' helpers are modules beside this package.
