"""Downloads from a server with every fault: what has the final name is whole, checked, and came over HTTPS."""

import hashlib
import multiprocessing
import os

import pytest

from timm_debias import DebiasError
from timm_debias.downloads import download

DATA = bytes(range(256)) * 40_000  # Ten blocks.
SHA256 = hashlib.sha256(DATA).hexdigest()


def accept(path) -> None:
    assert path.is_file()


@pytest.fixture
def there(web, tmp_path):
    web.files['/w.bin'] = DATA
    return web, f'{web.url}/w.bin', tmp_path / 'cache' / 'w.bin'


def names(path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir() if not entry.name.endswith('.lock'))


@pytest.mark.parametrize('sha256', [SHA256, None])
def test_whole_file(there, sha256):
    _, url, path = there
    download(url, path, accept, sha256)
    assert path.read_bytes() == DATA
    assert names(path) == ['w.bin']


def test_goes_on_where_it_broke_off(there):
    web, url, path = there
    web.breaks_after = 3_000_000
    with pytest.raises(DebiasError, match='after 3,000,000 of 10,240,000 bytes; the same command goes on there'):
        download(url, path, accept, SHA256)
    assert not path.exists()
    download(url, path, accept, SHA256)
    assert path.read_bytes() == DATA
    assert web.requests == [('/w.bin', 0), ('/w.bin', 3_000_000)]


def test_a_server_without_ranges(there):
    web, url, path = there
    web.breaks_after, web.knows_ranges = 3_000_000, False
    with pytest.raises(DebiasError):
        download(url, path, accept, SHA256)
    download(url, path, accept, SHA256)
    assert path.read_bytes() == DATA


def test_without_a_hash_the_beginning_is_not_trusted(there):
    web, url, path = there
    web.breaks_after = 3_000_000
    with pytest.raises(DebiasError, match=r'broke off after 3,000,000 of 10,240,000 bytes$'):
        download(url, path, accept)
    download(url, path, accept)
    assert web.requests == [('/w.bin', 0), ('/w.bin', 0)]


@pytest.mark.parametrize('left', [DATA + b'more', DATA, b'other'], ids=['longer', 'whole', 'other'])
def test_what_lay_there_is_checked(there, left):
    """A partial file of another version gives another hash, and is gone then: the next call begins anew."""
    _, url, path = there
    path.parent.mkdir()
    path.with_name('.w-download.partial.bin').write_bytes(left)
    if left != DATA and not left.startswith(DATA):
        with pytest.raises(DebiasError, match='SHA-256'):
            download(url, path, accept, SHA256)
        assert names(path) == []
    download(url, path, accept, SHA256)
    assert path.read_bytes() == DATA


def test_another_file(there):
    web, url, path = there
    web.files['/w.bin'] = b'exchanged'
    with pytest.raises(DebiasError, match=f'should be {SHA256}; damaged or exchanged'):
        download(url, path, accept, SHA256)

    def refuse(_) -> None:
        raise DebiasError('no weights')

    with pytest.raises(DebiasError, match='no weights'):
        download(url, path, refuse)
    assert names(path) == []


@pytest.mark.parametrize('claims', [None, 10, 0, 1 << 60], ids=['its own', 'less', 'no', 'more'])
def test_size_limit(there, claims):
    """Whatever the server says of the size, no more is written; a claim of less leaves the rest unread."""
    web, url, path = there
    web.claims = claims
    with pytest.raises(DebiasError, match=r'not loaded|SHA-256'):
        download(url, path, accept, SHA256, max_bytes=5_000_000)
    assert not path.exists()
    assert sum(entry.stat().st_size for entry in path.parent.iterdir()) <= 5_000_000


@pytest.mark.parametrize(
    'url', ['http://127.0.0.1/x', 'file:///etc/hostname', 'ftp://127.0.0.1/x', '/etc/hostname', '']
)
def test_only_https(tmp_path, url):
    with pytest.raises(DebiasError, match='only addresses that begin with https'):
        download(url, tmp_path / 'x', accept)
    assert list(tmp_path.iterdir()) == []


def test_no_way_from_https_to_others(there):
    web, url, path = there
    for other in (web.url.replace('https', 'http') + '/w.bin', 'file:///etc/hostname'):
        web.moved['/w.bin'] = other
        with pytest.raises(DebiasError, match=r'only addresses that begin with https|not allowed'):
            download(url, path, accept, SHA256)
        assert not path.exists()
    web.moved['/moved'] = f'{web.url}/w2.bin'
    web.files['/w2.bin'] = DATA
    download(f'{web.url}/moved', path, accept, SHA256)
    assert path.read_bytes() == DATA


def test_links_are_not_followed(there, tmp_path):
    _, url, path = there
    victim = tmp_path / 'victim'
    victim.write_text('mine')
    path.parent.mkdir()
    path.with_name('.w-download.partial.bin').symlink_to(victim)
    download(url, path, accept, SHA256)
    assert victim.read_text() == 'mine'
    assert path.read_bytes() == DATA


def test_errors_in_a_line(there):
    web, _, path = there
    with pytest.raises(DebiasError, match='Not Found'):
        download(f'{web.url}/none', path, accept)
    web.close()
    with pytest.raises(DebiasError, match='refused'):
        download(f'{web.url}/w.bin', path, accept)


def test_processes_that_start_together(there):
    """One of them loads, the others find the file."""
    web, url, path = there

    def work() -> None:
        download(url, path, accept, SHA256)
        os._exit(0 if path.read_bytes() == DATA else 1)

    processes = [multiprocessing.get_context('fork').Process(target=work) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert len(web.requests) == 1
