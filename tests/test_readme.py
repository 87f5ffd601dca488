"""The README's Python runs as it stands there; its commands are run by CI."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / 'README.md'


def test_training_from_python():
    """The block is a whole program: it trains, and the loss it leaves is a number."""
    blocks = re.findall(r'```python\n(.*?)```', README.read_text(encoding='utf-8'), re.DOTALL)
    (program,) = [block for block in blocks if 'create_debias_task' in block]
    program += "\nprint('finite:', result['loss'].isfinite().item(), model.fc.weight.isfinite().all().item())\n"
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert 'finite: True True' in done.stdout
