"""The card of the weights that the package ships for adain_lite."""

import shlex

import torch

from timm_debias import create_stylizer
from timm_debias.benchmark.size import count_macs, count_parameters
from timm_debias.flags import Parser, add_flags, config_from
from timm_debias.stylizer_training.config import StylizerTrainConfig
from timm_debias.stylizers.adain_lite import WEIGHTS
from timm_debias.weight_files import load_safetensors


def test_card_of_adain_lite():
    """It says what the file is, and its command is one that `train-stylizer` takes."""
    text = WEIGHTS.with_suffix('.md').read_text(encoding='utf-8')
    network = create_stylizer('adain_lite')
    facts = f'float16, {count_parameters(network):,} parameters, {count_macs(network) / 1e9:.2f} GMAC'
    assert facts in ' '.join(text.split())
    assert {tensor.dtype for tensor in load_safetensors(WEIGHTS).values()} == {torch.float16}
    for part in ('**Data.**', 'seed 0', '**Metrics**', 'PSNR', '**Limits.**', 'Licence of the weights: Apache-2.0'):
        assert part in text
    words = shlex.split(text.split('```bash\n')[1].split('```')[0].replace('\\\n', ' '))
    assert words[:3] == ['OMP_NUM_THREADS=1', 'timm-debias', 'train-stylizer']
    parser = Parser()
    add_flags(parser, StylizerTrainConfig)
    config = config_from(StylizerTrainConfig, parser.parse_args(words[3:]))
    assert f'{config.steps:,} updates of {config.batch_size} crops of {config.img_size} pixels' in text
    assert (config.stylizer, config.seed) == ('adain_lite', 0)
