"""The process of one run: trains, then measures.

    python -m timm_debias.study.worker RUN_DIR train validate

The flags of each stage lie in RUN_DIR, as `train.yaml` and `validate.yaml`; `seconds.json` says which stages are done.
A crash ends this process alone. When standard input ends, training saves where it is and this process ends: whatever
becomes of the process that started it, nothing is left running.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..files import write_text
from ..validation.results import read_json

SECONDS = 'seconds.json'

_GRACE = 300
"""Seconds to save a checkpoint in."""


def main(argv: Sequence[str]) -> int:
    """Do the stages that are not done yet; returns the exit code of the first that fails."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    folder, *stages = argv
    path = Path(folder) / SECONDS
    seconds = read_json(path) if path.is_file() else {}
    for stage in stages:
        if stage in seconds:
            continue
        wall, cpu = time.monotonic(), time.process_time()
        code = cli.run(stage, ['-c', str(Path(folder) / f'{stage}.yaml')])
        if code:
            return code
        seconds[stage] = {'wall': round(time.monotonic() - wall, 1), 'cpu': round(time.process_time() - cpu, 1)}
        if os.environ.get('RANK', '0') == '0':
            write_text(path, json.dumps(seconds) + '\n')
    return 0


def _end_with_parent() -> None:
    # Not through sys.stdin, whose lock this thread would still hold when the interpreter ends.
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(_GRACE)
    os._exit(1)


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
