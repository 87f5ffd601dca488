"""What the files of a results folder must look like: reports and comparisons are made of folders from anywhere."""

from typing import Any

from ..schema import Check, both, count, list_of, mapping, mapping_of, number, optional, record, text, truth

_figure = optional(number)
_interval = optional(list_of(number, length=2))


def _intervals(metrics: Any, where: str) -> None:
    for name, value in metrics.items():
        if name.endswith('_interval'):
            _interval(value, f'{where}: {name}')


_error = record({'error': number, 'error_interval': _interval})
_category = record({'images': count, 'shape': count, 'texture': count, 'shape_bias': _figure})
_point = record({'epsilon': number, 'top1': number, 'top1_interval': _interval})
_metrics = both(
    record(
        {},
        {
            'curve': list_of(_point),
            'errors': mapping_of(mapping_of(_error)),
            'categories': mapping_of(_category),
            'published_shape_bias': mapping_of(number),
        },
    ),
    _intervals,
)

_OF_BENCHMARK: dict[str, Check] = {
    'imagenet': record({'top1': number}),
    'imagenet-c': record({'mce': _figure, 'errors': mapping}),
    'folder-c': record({'errors': mapping}),
    'cue-conflict': record({'shape_bias': _figure, 'categories': mapping, 'published_shape_bias': mapping}),
}
"""What the tables and drawings of a benchmark need of its metrics."""

_entry = record(
    {
        'protocol': text,
        'partial': truth,
        'subset': optional(text),
        'images': count,
        'skipped': list_of(text),
        'fingerprint': text,
        'headline': mapping_of(_figure),
        'metrics': _metrics,
        'notes': list_of(text),
    }
)

_results = record(
    {
        'model': text,
        'weights': text,
        'param_count': number,
        'img_size': count,
        'absent': mapping_of(text),
        'benchmarks': mapping_of(_entry),
    },
    {
        'crop_pct': number,
        'interpolation': text,
        'settings': record({}, {'mean': list_of(number), 'std': list_of(number)}),
    },
)

_identity = record({'images': count, 'fingerprint': text, 'targets': text})
_result = record({'images': count, 'skipped': list_of(text), 'state': mapping}, {'right': optional(text)})

check_part = record({'identity': _identity, 'result': _result})
"""The file of a part."""

check_models = list_of(record({'folder': text}, {'error': text, 'model': text}))
"""results.json of many models, as far as it says where each has its own."""


def check_results(value: Any, where: str) -> None:
    """Expect results.json of one model.

    Raises:
        ValueError: something in it is not as the tables, reports and comparisons take it.
    """
    _results(value, where)
    for name, entry in value['benchmarks'].items():
        _OF_BENCHMARK.get(name, mapping)(entry['metrics'], f'{where}: benchmarks: {name}: metrics')
