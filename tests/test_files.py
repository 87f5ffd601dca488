"""A crash while writing leaves the old file."""

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest

from timm_debias.errors import DebiasError
from timm_debias.files import atomic_path, check_output, remove_leftovers, sync_folder, write_output, write_text


def test_replaces_the_file_with_the_usual_rights(tmp_path):
    path = tmp_path / 'folder' / 'a.txt'
    write_text(path, 'old')
    write_text(path, 'né')
    assert path.read_text(encoding='utf-8') == 'né'
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    assert list(path.parent.iterdir()) == [path]


def test_threads_keep_the_rights_of_new_files(tmp_path, monkeypatch):
    """Asking for the umask sets it for a moment, in which other threads would make files that anyone may write."""
    monkeypatch.setattr(os, 'umask', lambda mask: pytest.fail('the umask is set'))
    write_text(tmp_path / 'a.txt', 'a')


def test_an_error_while_writing_keeps_the_old_file(tmp_path):
    path = tmp_path / 'a.txt'
    write_text(path, 'old')

    def write_half() -> None:
        with atomic_path(path) as temporary:
            temporary.write_text('half')
            raise RuntimeError('boom')

    with pytest.raises(RuntimeError, match='boom'):
        write_half()
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Else a crash of the machine may leave the name without the content; the folder follows, for the name itself."""
    happened = []

    def noted(name, describe):
        function = getattr(os, name)

        def call(*args):
            happened.append((name, describe(*args)))
            return function(*args)

        monkeypatch.setattr(os, name, call)

    noted('fsync', lambda handle: (os.fstat(handle).st_ino, os.fstat(handle).st_size))
    noted('replace', lambda source, target: (os.stat(source).st_ino, Path(target).name))
    with atomic_path(tmp_path / 'a.bin') as temporary:
        temporary.write_bytes(b'12345')
    number = (tmp_path / 'a.bin').stat().st_ino
    assert happened == [('fsync', (number, 5)), ('replace', (number, 'a.bin'))]
    sync_folder(tmp_path)
    assert happened[2][1][0] == tmp_path.stat().st_ino


def test_output_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(DebiasError, match=r'--output .*a\.txt cannot be written'):
        write_output(tmp_path / 'file' / 'a.txt', 'new')


def test_suffix_is_kept(tmp_path):
    with atomic_path(tmp_path / 'a.png') as temporary:
        assert temporary.suffix == '.png'
        temporary.write_bytes(b'x')


def test_leftovers_of_a_killed_process(tmp_path):
    """A process that dies while it writes leaves a hidden file, which the next one removes, and nothing else."""

    def die() -> None:
        with atomic_path(tmp_path / 'deep' / 'a.pth.tar') as temporary:
            temporary.write_text('half')
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context('fork').Process(target=die)
    process.start()
    process.join()
    for name in ('.gitignore', '.a-b.tar', 'partial.txt', 'a.partial.tar'):
        (tmp_path / 'deep' / name).touch()
    (tmp_path / 'deep' / '.model-x.partial').mkdir()  # A folder's, which its writer removes.
    assert len(list((tmp_path / 'deep').iterdir())) == 6
    remove_leftovers(tmp_path)
    assert {path.name for path in (tmp_path / 'deep').iterdir()} == {
        '.gitignore',
        '.a-b.tar',
        'partial.txt',
        'a.partial.tar',
        '.model-x.partial',
    }


def test_check_of_a_folder_makes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ('a', 'a/b/c', tmp_path, tmp_path / 'x/y'):
        assert check_output(name) == Path(name)
    assert list(tmp_path.iterdir()) == []


def test_check_of_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / 'file').touch()
    for name in ('file', 'file/a/b'):
        with pytest.raises(DebiasError, match=f'--output .*{name}: .*file is a file'):
            check_output(tmp_path / name)
    monkeypatch.setattr(os, 'access', lambda path, mode: False)  # Whoever runs tests as root may write anywhere.
    with pytest.raises(DebiasError, match='cannot be written to'):
        check_output(tmp_path / 'a')
