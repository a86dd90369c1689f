"""Checks an executable for macOS on Apple Silicon, as far as can be done without one.

    python verify.py BINARY --minimum 13.0 [--forbid FOLDER]...

The Mach-O structure is read by LIEF, the signature by `signature.py`; what the binary may use of the system is
what the stubs in sdk/ declare. Prints a line per check; exit status 0 when all hold, 1 when one does not.
"""

import argparse
import pathlib
import re
import sys

import lief

import signature
import stubs

# It remarks on the empty LC_FUNCTION_STARTS that zig writes; what is wrong with a file, its functions return.
lief.logging.disable()

# Segments are mapped by pages of this size on Apple Silicon.
PAGE = 0x4000
LARGEST = 48 << 20
# Homes and scratch folders, on whatever machine: no path in them means anything where the binary runs. Nothing is asked
# of what follows: Rust's strings stand side by side without an end.
SOMEBODYS_FOLDER = re.compile(rb"/(?:home|root|Users|tmp|private/var|builds)/[\w.@+-]+/[\w./@+-]*\.(?:rs|c|h|o|a)")


def version(numbers):
    """`[13, 0, 0]` as "13.0", the way deployment targets are written."""
    major, minor, patch = [*numbers, 0, 0, 0][:3]
    return f"{major}.{minor}" + (f".{patch}" if patch else "")


class Checks:
    """The checks of one file; each yields what is wrong, as sentences."""

    def __init__(self, data, minimum, forbidden):
        self.data, self.minimum, self.forbidden = data, minimum, forbidden
        self.fat = lief.MachO.parse(data)
        if self.fat is None or self.fat.size != 1:
            raise ValueError("not a Mach-O file of one architecture")
        self.binary = self.fat.at(0)
        self.allowed = stubs.allowed()

    def header(self):
        """arm64, an executable, at a random address, whose symbols name their library."""
        header, flags = self.binary.header, lief.MachO.Header.FLAGS
        if header.cpu_type != lief.MachO.Header.CPU_TYPE.ARM64 or header.cpu_subtype != 0:
            yield f"it is for {header.cpu_type.name} (subtype {header.cpu_subtype:#x}), not for plain arm64"
        if header.file_type != lief.MachO.Header.FILE_TYPE.EXECUTE:
            yield f"it is of type {header.file_type.name}, not an executable"
        for flag in (flags.PIE, flags.TWOLEVEL, flags.DYLDLINK, flags.NOUNDEFS):
            if flag not in header.flags_list:
                yield f"its header lacks the flag {flag.name}"
        for flag in (flags.ALLOW_STACK_EXECUTION, flags.FORCE_FLAT):
            if flag in header.flags_list:
                yield f"its header has the flag {flag.name}"

    def layout(self):
        """segments where the kernel can map them; what the loader refuses, by LIEF's copy of its rules."""
        fine, message = lief.MachO.check_layout(self.fat)
        if not fine:
            yield message.strip()
        for segment in self.binary.segments:
            if segment.virtual_address % PAGE or segment.file_offset % PAGE:
                yield f"{segment.name} does not begin on a page"
            if segment.init_protection & 6 == 6:
                yield f"{segment.name} is both writable and executable"
        if self.binary.has_rpath:
            yield f"it looks for libraries in {self.binary.rpath.path}"
        if not self.binary.has_dylinker or self.binary.dylinker.name != "/usr/lib/dyld":
            yield "its loader is not /usr/lib/dyld"
        if not self.binary.has_uuid:
            yield "it has no UUID, which macOS asks of executables from 26 on"
        code = self.binary.get_section("__TEXT", "__text")
        start = self.binary.main_command.entrypoint if self.binary.has_main_command else 0
        if code is None or not code.offset <= start < code.offset + code.size:
            yield f"its entry point, byte {start:#x}, is not in its code"

    def build_version(self):
        """for macOS, from the version on that we promise."""
        if not self.binary.has_build_version:
            yield "it has no LC_BUILD_VERSION"
            return
        build = self.binary.build_version
        if build.platform != lief.MachO.BuildVersion.PLATFORMS.MACOS:
            yield f"it is for {build.platform.name}, not for macOS"
        if version(build.minos) != self.minimum:
            yield f"it needs macOS {version(build.minos)}, not {self.minimum}"
        if build.sdk < build.minos:
            yield f"its SDK, {version(build.sdk)}, is older than the macOS that it needs"

    def signature(self):
        """signed ad hoc, every page's hash right: macOS kills what is not."""
        if not self.binary.has_code_signature:
            yield "it is not signed"
            return
        place = self.binary.code_signature
        if place.data_offset + place.data_size != len(self.data):
            yield f"the file has {len(self.data)} bytes, its signature ends at {place.data_offset + place.data_size}"
        try:
            directory = signature.CodeDirectory(self.data, place.data_offset, place.data_size)
            yield from directory.problems(self.binary.get_segment("__TEXT").file_size)
        except signature.Malformed as error:
            yield str(error)

    def libraries(self):
        """no library but those that the stubs declare."""
        for library in self.binary.libraries:
            if library.name not in self.allowed:
                yield f"it loads {library.name}, which no stub in sdk/ declares"

    def imports(self):
        """every symbol from elsewhere, as the symbol table has it and as the loader binds it, is declared."""
        libraries = [library.name for library in self.binary.libraries]

        def problem(name, ordinal):
            # Ordinals count from 1; others stand for "this file", "any library" and the like.
            if not 1 <= ordinal <= len(libraries):
                return f"{name} names no library (ordinal {ordinal})"
            library = libraries[ordinal - 1]
            if name not in self.allowed.get(library, ()):
                return f"{name} of {library} is declared by no stub in sdk/"
            return None

        undefined = [s for s in self.binary.symbols if s.type == lief.MachO.Symbol.TYPE.UNDEFINED]
        found = {problem(symbol.name, symbol.description >> 8 & 0xFF) for symbol in undefined}
        found |= {problem(b.symbol.name if b.has_symbol else "?", b.library_ordinal) for b in self.binary.bindings}
        yield from sorted(found - {None})
        if not undefined:
            yield "it uses nothing of the system, so its symbols cannot have been read"

    def paths(self):
        """no folder of the machine that built it."""
        found = set(SOMEBODYS_FOLDER.findall(self.data))
        for folder in self.forbidden:
            found.update(re.findall(re.escape(folder.encode()) + rb"[\w./@+-]*", self.data))
        if found:
            some = b", ".join(sorted(found)[:3]).decode(errors="replace")
            yield f"it names {len(found)} paths of the machine that built it: {some}"

    def size(self):
        """of a size that people download without thinking about it."""
        if len(self.data) > LARGEST:
            yield f"{len(self.data)} bytes are more than {LARGEST}"

    ALL = (header, layout, build_version, signature, libraries, imports, paths, size)

    def run(self):
        """Name of each check -> what is wrong."""
        return {check.__name__: list(check(self)) for check in self.ALL}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("binary", type=pathlib.Path)
    arguments.add_argument("--minimum", required=True, help="the oldest macOS that it runs on")
    arguments.add_argument("--forbid", action="append", default=[], help="a folder whose name must not be in it")
    options = arguments.parse_args()
    data = options.binary.read_bytes()
    checks = Checks(data, options.minimum, options.forbid)
    results = checks.run()
    for check in Checks.ALL:
        wrong = results[check.__name__]
        print(f"{'FAIL' if wrong else 'PASS'} {check.__name__}: {check.__doc__}")
        for sentence in wrong:
            print(f"     {sentence}")
    print(f"{options.binary.name}: {len(data) / 1e6:.1f} MB, {len(checks.binary.libraries)} libraries")
    return 1 if any(results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
