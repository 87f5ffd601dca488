"""Image folders for learning from three vendors' emoji and testing on the fourth's.

    python benchmarks/emoji_folders.py --data-root DATA --output output/emoji

DATA holds `emoji_<vendor>/<class>/<codepoint>.png` and `emoji_concepts.tsv`, which splits concepts, not files, into
training and test: the vendors draw the same concepts. For each vendor, OUTPUT/<vendor>/train has the training concepts
of the three others, OUTPUT/<vendor>/test its own test concepts: neither their drawings nor their style were seen.
"""

import argparse
import csv
import shutil
import sys
from pathlib import Path

from timm_debias import DebiasError
from timm_debias.files import atomic_path, remove_leftovers

VENDORS = ('fluent3d', 'noto', 'openmoji', 'twemoji')


def get_args_parser() -> argparse.ArgumentParser:
    """Return the command's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data-root', required=True, type=Path, help='folder of the emoji and of emoji_concepts.tsv')
    parser.add_argument('--output', required=True, type=Path, help='folder for the image folders')
    return parser


def read_splits(path: Path) -> dict[str, str]:
    """Return the split of each concept, by codepoint."""
    with open(path, newline='', encoding='utf-8') as file:
        return {row['codepoint']: row['split'] for row in csv.DictReader(file, delimiter='\t')}


def list_copies(data_root: Path, splits: dict[str, str], held_out: str) -> dict[str, Path]:
    """Return the image for each file of the folders of a vendor that is held out, by its path below them.

    Raises:
        DebiasError: an image of a concept that has no split.
    """
    copies = {}
    for vendor in VENDORS:
        split = 'test' if vendor == held_out else 'train'
        for image in sorted((data_root / f'emoji_{vendor}').glob('*/*.png')):
            if image.stem not in splits:
                raise DebiasError(f'emoji_concepts.tsv does not say whether {image} is for training or test')
            if splits[image.stem] == split:
                copies[f'{split}/{image.parent.name}/{vendor}-{image.stem}.png'] = image
    return copies


def check_folders(folder: Path, copies: dict[str, Path]) -> None:
    """Check that folders made before have nothing else: where splits changed, a concept would be in both.

    Raises:
        DebiasError: they have.
    """
    for path in sorted(folder.glob('*/*/*')):
        if path.relative_to(folder).as_posix() not in copies:
            raise DebiasError(f'{path} is none of the images of {folder} by emoji_concepts.tsv; remove {folder}')


def main() -> int:
    """Copy what is missing, and print how many images there are."""
    try:
        make_folders(get_args_parser().parse_args())
    except DebiasError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def make_folders(args: argparse.Namespace) -> None:
    """Copy what is missing.

    Raises:
        DebiasError: images or folders that do not fit the splits.
    """
    missing = [path for path in (args.data_root / f'emoji_{vendor}' for vendor in VENDORS) if not path.is_dir()]
    table = args.data_root / 'emoji_concepts.tsv'
    if missing or not table.is_file():
        raise DebiasError(f'--data-root {args.data_root} lacks {(missing or [table])[0].name}')
    splits = read_splits(table)
    for held_out in VENDORS:
        copies = list_copies(args.data_root, splits, held_out)
        remove_leftovers(args.output / held_out)
        check_folders(args.output / held_out, copies)
        for name, image in copies.items():
            target = args.output / held_out / name
            if not target.exists():
                with atomic_path(target) as temporary:
                    shutil.copyfile(image, temporary)
        counts = {split: sum(name.startswith(split) for name in copies) for split in ('train', 'test')}
        print(f'{args.output / held_out}: {counts["train"]} images to train on, {counts["test"]} to test')


if __name__ == '__main__':
    sys.exit(main())
