"""The command `timm-debias report`."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from ..files import write_output
from ..flags import Parser, add_flags, config_from, flag
from ..log import setup_logging
from .page import format_page
from .runs import read_runs

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReportConfig:
    """Show the results of models"""

    results_dirs: list[str] = flag(
        [], 'results folders, of a model or of many, from validate.py --benchmarks … --results-dir', 'results_dirs',
        nargs='+', metavar='RESULTS_DIR',
    )  # fmt: skip
    output: str = flag('report.html', 'HTML file for the report', metavar='FILE')
    with_published: bool = flag(False, 'show figures for ResNet-50 that others published, marked as such')


def main(argv: Sequence[str] | None = None) -> int:
    """Write the report that the flags ask for; returns the exit code.

    Raises:
        DebiasError: folders without results, or a file that cannot be written.
    """
    setup_logging()
    parser = Parser(
        prog='timm-debias report',
        description='Write one HTML page that needs nothing else: a table that can be sorted, and plots.',
    )
    add_flags(parser, ReportConfig)
    config = config_from(ReportConfig, parser.parse_args(argv))
    runs = read_runs(config.results_dirs)
    write_output(config.output, format_page(runs, config.with_published))
    _logger.info(f'Report on {len(runs)} models: {config.output}')
    return 0
