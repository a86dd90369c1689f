"""The stub libraries in sdk/: the one declaration of what the binary may use of the system.

The linker reads them, and `verify.py` reads them again as its allow-list. As a program this compares
libSystem, the longest, with the list that zig brings along, which comes from Apple's own stubs:

    python stubs.py

Exit status 0 when every symbol is in that list, 1 when one is not.
"""

import pathlib
import sys

import yaml

SDK = pathlib.Path(__file__).parent / "sdk"


class Loader(yaml.SafeLoader):
    """YAML whose documents are tagged `!tapi-tbd`, as text-based stubs are."""


Loader.add_constructor("!tapi-tbd", lambda loader, node: loader.construct_mapping(node, deep=True))


def documents(path):
    """Install name and exported symbols of each library in a stub file (one file may hold several)."""
    for library in yaml.load_all(path.read_text(), Loader):
        symbols = set()
        for group in library.get("exports", []) + library.get("reexports", []):
            symbols.update(group.get("symbols", []), group.get("weak-symbols", []))
        yield library["install-name"], symbols


def allowed():
    """What a binary may use: install name of a library -> set of symbols."""
    return dict(library for path in SDK.rglob("*.tbd") for library in documents(path))


def main():
    import ziglang

    theirs = set()
    for _, symbols in documents(pathlib.Path(ziglang.__file__).parent / "lib/libc/darwin/libSystem.tbd"):
        theirs |= symbols
    ours = allowed()["/usr/lib/libSystem.B.dylib"]
    for symbol in sorted(ours - theirs):
        print(f"error: sdk/usr/lib/libSystem.tbd declares {symbol}, which Apple's libSystem does not export")
    print(f"{len(ours & theirs)} of {len(ours)} symbols of libSystem are in Apple's list")
    return 0 if ours <= theirs else 1


if __name__ == "__main__":
    sys.exit(main())
