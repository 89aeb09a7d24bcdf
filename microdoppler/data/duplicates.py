"""Image files with the same content, whatever their names are."""
import hashlib
from collections import defaultdict
from pathlib import Path

from groundwork.errors import printable, shortened
from groundwork.progress import Progress


def find_duplicates(root: Path, images: dict[int, list[str]]) -> list[list[str]]:
    """Groups of images of a data set whose files are equal byte by byte. images: {user number: paths relative to root},
    all of them decodable."""
    by_content: dict[bytes, list[str]] = defaultdict(list)
    names = [name for own in images.values() for name in own]
    for name in Progress(names, desc="looking for copies", unit="image", delay=1):
        by_content[hashlib.blake2b((root / name).read_bytes()).digest()].append(name)
    return [group for group in by_content.values() if len(group) > 1]


def describe_duplicates(groups: list[list[str]]) -> list[str]:
    """Lines to print: how many files repeat others, and whether equal files belong to different users."""
    if not groups:
        return []
    extra = sum(len(group) - 1 for group in groups)
    pairs = [f"{group[0]} = {group[1]}" for group in groups]
    lines = [f"warning: {extra} files repeat the content of others ({shortened(pairs, 3)}); a copy in the test set "
             "makes accuracies too good: remove the copies"]
    if mixed := [pair for pair, group in zip(pairs, groups) if len({name.split("/")[0] for name in group}) > 1]:
        lines.append(f"warning: {len(mixed)} images are in the folders of several users ({shortened(mixed, 3)}): their "
                     "label is wrong in all but one")
    return [printable(line) for line in lines]
