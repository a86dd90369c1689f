"""Plants faults in an executable that `verify.py` finds right, and shows that the right check notices each.

    python faults.py BINARY --minimum 13.0 --forbid FOLDER

Every copy but those whose fault is in the signature itself is signed anew, so that not the hashes give it away.
Exit status 0 when each fault is noticed by exactly the checks that it names, 1 otherwise.
"""

import argparse
import pathlib
import struct
import sys

import lief

import signature
from verify import Checks


class Executable:
    """Where things are in the bytes of a right executable."""

    def __init__(self, data, folder):
        self.data, self.folder = data, folder
        self.binary = lief.MachO.parse(data).at(0)
        self.place = self.binary.code_signature
        self.directory = signature.CodeDirectory(data, self.place.data_offset, self.place.data_size)

    def written(self, offset, value):
        """A copy with `value` at `offset`."""
        return self.data[:offset] + value + self.data[offset + len(value):]

    def renamed(self, old, new):
        """A copy with one string for another, everywhere; same length, so that nothing moves."""
        assert len(old) == len(new) and old in self.data
        return self.data.replace(old, new)

    def section(self, segment, name):
        return self.binary.get_section(segment, name).offset

    def build(self):
        return self.binary.build_version.command_offset

    def first_undefined(self):
        """The offset of the symbol table's first undefined entry (an `nlist_64`)."""
        table = self.binary.dynamic_symbol_command
        return self.binary.symbol_command.symbol_offset + 16 * table.idx_undefined_symbol


def unsigned(exe):
    """The load command of the signature becomes one that macOS passes over."""
    return exe.written(exe.place.command_offset, struct.pack("<I", lief.MachO.LoadCommand.TYPE.SOURCE_VERSION.value))


def flat(exe):
    """Ordinal 254 is "look in every library"."""
    at = exe.first_undefined() + 6
    return exe.written(at, struct.pack("<H", 254 << 8))


def elsewhere(exe):
    """The ordinal of another of the libraries that are loaded."""
    at = exe.first_undefined() + 6
    ordinal = struct.unpack_from("<H", exe.data, at)[0] >> 8
    return exe.written(at, struct.pack("<H", (ordinal % len(exe.binary.libraries) + 1) << 8))


# What is planted, the checks that must notice, whether the copy is signed anew, how.
FAULTS = [
    ("a byte of code flipped", {"signature"}, False,
     lambda exe: exe.written(exe.section("__TEXT", "__text") + 4096,
                             bytes([exe.data[exe.section("__TEXT", "__text") + 4096] ^ 1]))),
    ("a byte of the last page flipped", {"signature"}, False,
     lambda exe: exe.written(exe.place.data_offset - 1, bytes([exe.data[exe.place.data_offset - 1] ^ 1]))),
    ("a byte of a page's hash flipped", {"signature"}, False,
     lambda exe: exe.written(exe.directory.hashes, bytes([exe.data[exe.directory.hashes] ^ 1]))),
    ("no signature", {"layout", "signature"}, False, unsigned),
    ("a signature that is not said to be ad hoc", {"signature"}, False,
     lambda exe: exe.written(exe.directory.start + 12, struct.pack(">I", exe.directory.flags & ~signature.FLAG_ADHOC))),
    ("one page hash too few", {"signature"}, False,
     lambda exe: exe.written(exe.directory.start + 28, struct.pack(">I", exe.directory.code_slots - 1))),
    ("the end cut off", {"imports", "layout", "signature"}, False, lambda exe: exe.data[:-64]),
    ("bytes after the signature", {"layout", "signature"}, False, lambda exe: exe.data + bytes(16)),
    ("a misspelt symbol", {"imports"}, True, lambda exe: exe.renamed(b"_cblas_sgemm\0", b"_cblas_sgemn\0")),
    ("a symbol looked for in the wrong library", {"imports"}, True, elsewhere),
    ("a symbol looked for in every library", {"imports"}, True, flat),
    ("a library that no stub declares", {"libraries", "imports"}, True,
     lambda exe: exe.renamed(b"/usr/lib/libSystem.B.dylib\0", b"/usr/lib/libSystem.C.dylib\0")),
    ("a newer macOS needed", {"build_version"}, True,
     lambda exe: exe.written(exe.build() + 12, struct.pack("<2I", 14 << 16, 14 << 16))),
    ("an SDK older than the macOS needed", {"build_version"}, True,
     lambda exe: exe.written(exe.build() + 16, struct.pack("<I", 12 << 16))),
    ("built for iOS", {"build_version"}, True, lambda exe: exe.written(exe.build() + 8, struct.pack("<I", 2))),
    ("built for x86-64", {"header"}, True, lambda exe: exe.written(4, struct.pack("<2I", 0x01000007, 3))),
    ("built for arm64e", {"header"}, True, lambda exe: exe.written(8, struct.pack("<I", 2))),
    ("at a fixed address", {"header"}, True,
     lambda exe: exe.written(24, struct.pack("<I", struct.unpack_from("<I", exe.data, 24)[0] & ~0x200000))),
    ("an entry point outside the code", {"layout"}, True,
     lambda exe: exe.written(exe.binary.main_command.command_offset + 8, struct.pack("<Q", 0x20))),
    ("another loader", {"layout"}, True, lambda exe: exe.renamed(b"/usr/lib/dyld\0", b"/usr/lib/dylb\0")),
    ("code that can be written to", {"layout"}, True,
     lambda exe: exe.written(exe.binary.get_segment("__TEXT").command_offset + 60, struct.pack("<I", 7))),
    ("a path of the machine that built it", {"paths"}, True,
     lambda exe: exe.written(exe.section("__TEXT", "__const"), f"{exe.folder}/src/main.rs".encode())),
    ("a path of somebody's home", {"paths"}, True,
     lambda exe: exe.written(exe.section("__TEXT", "__const"), b"/Users/somebody/anneal/src/main.rs")),
]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=pathlib.Path)
    arguments.add_argument("--minimum", required=True, help="the oldest macOS that it runs on")
    arguments.add_argument("--forbid", required=True, help="a folder whose name must not be in it")
    options = arguments.parse_args()
    exe = Executable(options.binary.read_bytes(), options.forbid)

    def noticed(data):
        results = Checks(data, options.minimum, [options.forbid]).run()
        return {name: wrong for name, wrong in results.items() if wrong}

    if found := noticed(exe.data):
        print(f"error: {options.binary} is not right to begin with: {found}")
        return 1
    missed = 0
    for name, checks, sign, plant in FAULTS:
        data = plant(exe)
        assert data != exe.data, f"{name}: nothing was changed"
        if sign:
            data = signature.sign(data, exe.place.data_offset, exe.place.data_size)
        found = noticed(data)
        right = set(found) == checks
        missed += not right
        said = "; ".join(sentence for wrong in found.values() for sentence in wrong[:1]) or "nothing"
        print(f"{'PASS' if right else 'FAIL'} {name}: {said}")
        if not right:
            print(f"     expected {sorted(checks)} to notice, not {sorted(found)}")
    print(f"{len(FAULTS) - missed} of {len(FAULTS)} planted faults noticed by the right checks")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
