"""Which models `--models` names."""

import pytest

from timm_debias.validation.model_lists import Entry, folder_names, list_entries, parse_shard


def test_a_file(tmp_path):
    path = tmp_path / 'models.txt'
    path.write_text('# ours\nresnet50\n\nresnet50.a1_in1k , \nresnet18, runs/a,b.pth\nresnet50\n')
    expected = [Entry('resnet50'), Entry('resnet50.a1_in1k'), Entry('resnet18', 'runs/a,b.pth')]
    assert list_entries(str(path), 'unused', {1000}) == expected


def test_a_folder_of_checkpoints(tmp_path):
    for name in ('checkpoint-10.pth.tar', 'checkpoint-9.pth.tar', 'last.safetensors', 'args.yaml', 'summary.csv'):
        (tmp_path / name).touch()
    (tmp_path / 'old.pth').mkdir()
    expected = ['checkpoint-9.pth.tar', 'checkpoint-10.pth.tar', 'last.safetensors']
    assert list_entries(str(tmp_path), 'resnet18', {1000}) == [
        Entry('resnet18', str(tmp_path / name)) for name in expected
    ]


def test_wildcards_find_pretrained_models_of_the_classes():
    found = [entry.model for entry in list_entries('convnext_nano*', 'unused', {1000})]
    assert 'convnext_nano.in12k_ft_in1k' in found
    assert 'convnext_nano.in12k' not in found
    assert 'convnext_nano.in12k' in [entry.model for entry in list_entries('convnext_nano*', 'unused', {1000, 11821})]
    assert {entry.model for entry in list_entries('all', 'unused', {1000})} > set(found)


def test_nothing_found(tmp_path):
    with pytest.raises(ValueError, match=r"no pretrained model of this name. Did you mean .*'resnet50'"):
        list_entries('resnet5O', 'unused', {1000})
    with pytest.raises(ValueError, match='pretrained models of 8 classes, found none'):
        list_entries('resnet50', 'unused', {8})
    with pytest.raises(ValueError, match=r'expected checkpoints \(.pth.tar, '):
        list_entries(str(tmp_path), 'resnet18', {1000})
    (tmp_path / 'empty').touch()
    with pytest.raises(ValueError, match='expected lines of the form'):
        list_entries(str(tmp_path / 'empty'), 'unused', {1000})
    (tmp_path / 'binary').write_bytes(b'\xff\xfe\x00')
    with pytest.raises(ValueError, match='not a text file'):
        list_entries(str(tmp_path / 'binary'), 'unused', {1000})


def test_folder_names_are_told_apart():
    ours, theirs = Entry('resnet18', 'ours/model_best.pth.tar'), Entry('resnet18', 'theirs/model_best.pth.tar')
    entries = [Entry('resnet18'), Entry('hf-hub:timm/resnet18'), Entry('resnet18', 'runs/a b.pth'), ours, theirs]
    names = folder_names(entries)
    assert list(names.values())[:3] == ['resnet18', 'hf-hub_timm_resnet18', 'resnet18-a_b']
    assert names[ours].startswith('resnet18-model_best-')
    assert len(set(names.values())) == 5
    assert folder_names(entries[::-1]) == names


@pytest.mark.parametrize('shard', ['0/2', '3/2', '1', '1/0', '-1/2', '1/2/3', 'a/b'])
def test_wrong_shards(shard):
    with pytest.raises(ValueError, match=f"--shard '{shard}': expected i/n"):
        parse_shard(shard)


def test_shard():
    assert parse_shard('2/4') == (2, 4)
