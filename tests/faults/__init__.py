"""The fault campaign: `python -m tests.faults` kills training, validation and the making of data sets, again and again.

Every process is killed by SIGKILL, at a random moment or at a random call inside the code that writes files; after each
kill no file with a final name may be half-written, and what goes on must end in the same bits as what was never
killed.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # The tests' helpers are modules beside this package.
