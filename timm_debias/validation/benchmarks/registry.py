"""The registry of benchmarks: a file with its decorator and an import in `__init__.py` make one known everywhere."""

from ...errors import DebiasError, did_you_mean
from ...markdown import table_lines
from .base import Benchmark

_benchmarks: dict[str, Benchmark] = {}


def register_benchmark(benchmark: type[Benchmark]) -> type[Benchmark]:
    """Register a benchmark under its `name`.

    Raises:
        DebiasError: the name is taken.
    """
    if benchmark.name in _benchmarks:
        raise DebiasError(f"a benchmark named '{benchmark.name}' is registered already; choose another name")
    _benchmarks[benchmark.name] = benchmark()
    return benchmark


def list_benchmarks() -> list[str]:
    """Return the names of all registered benchmarks, sorted; they are measured in this order."""
    return sorted(_benchmarks)


def get_benchmark(name: str) -> Benchmark:
    """Return a registered benchmark.

    Raises:
        DebiasError: unknown name.
    """
    if name not in _benchmarks:
        raise DebiasError(f"unknown benchmark '{name}'. {did_you_mean(name, _benchmarks)}")
    return _benchmarks[name]


def format_benchmarks() -> str:
    """Return a Markdown table of all benchmarks: images, metric, layout under the data root, source."""
    rows = []
    for name in list_benchmarks():
        benchmark = _benchmarks[name]
        images = 'any' if benchmark.num_images is None else f'{benchmark.num_images:,}'
        rows.append((name, images, benchmark.metric, benchmark.layout, benchmark.source))
    return '\n'.join(table_lines(('name', 'images', 'metric', 'layout under --data-root', 'source'), rows)) + '\n'
