"""Reads the code signature of a Mach-O file and recomputes every hash that macOS would.

The format is that of xnu's `osfmk/kern/cs_blobs.h`; all numbers are big-endian. The linker's ad-hoc signature
is a "super blob" with one "code directory": the SHA-256 of each page of the file, up to the signature itself.
"""

import hashlib
import struct

EMBEDDED_SIGNATURE = 0xFADE0CC0
CODE_DIRECTORY = 0xFADE0C02
SLOT_CODE_DIRECTORY = 0
# Slots from here on (alternate directories, certificates) are not hashed into the directory.
FIRST_UNHASHED_SLOT = 0x1000
FLAG_ADHOC = 0x2
SHA256 = 2
# From this version on the directory names the executable segment, which Apple Silicon asks for.
VERSION_EXEC_SEGMENT = 0x20400
EXEC_SEGMENT_MAIN_BINARY = 0x1
# log2 of the page sizes that are in use: 4 KiB and 16 KiB.
PAGE_SIZES = (12, 14)


class Malformed(Exception):
    """The bytes are no signature of the kind that linkers write."""


class CodeDirectory:
    """The code directory of the signature at `offset` (length `size`) of the file `data`."""

    def __init__(self, data, offset, size):
        self.data, self.offset = data, offset
        if offset + size > len(data):
            raise Malformed(f"the signature ends at byte {offset + size}, the file at {len(data)}")
        magic, length, count = self.unpack(">3I", offset)
        if magic != EMBEDDED_SIGNATURE:
            raise Malformed(f"magic {magic:#x} is not that of an embedded signature")
        if length > size:
            raise Malformed(f"the signature is {length} bytes long, its place only {size}")
        self.blobs = {}
        for index in range(count):
            slot, start = self.unpack(">2I", offset + 12 + 8 * index)
            _, blob_length = self.unpack(">2I", offset + start)
            self.blobs[slot] = (offset + start, blob_length)
        if SLOT_CODE_DIRECTORY not in self.blobs:
            raise Malformed("there is no code directory")
        self.start, _ = self.blobs[SLOT_CODE_DIRECTORY]
        (magic, _, self.version, self.flags, hashes, identifier, self.special_slots, self.code_slots,
         self.code_limit, self.hash_size, self.hash_type, _, self.page_shift) = self.unpack(">9I4B", self.start)
        if magic != CODE_DIRECTORY:
            raise Malformed(f"magic {magic:#x} is not that of a code directory")
        if self.version < VERSION_EXEC_SEGMENT:
            raise Malformed(f"version {self.version:#x} names no executable segment")
        # After the fields above: spare, scatter, team, spare (4 bytes each), a 64-bit limit, and this.
        self.exec_base, self.exec_limit, self.exec_flags = self.unpack(">3Q", self.start + 64)
        self.hashes = self.start + hashes
        end = data.index(b"\0", self.start + identifier)
        self.identifier = data[self.start + identifier:end].decode()

    def unpack(self, layout, offset):
        try:
            return struct.unpack_from(layout, self.data, offset)
        except struct.error as error:
            raise Malformed(str(error)) from error

    def pages(self):
        """Number, place of its hash, and true hash of every page."""
        step = 1 << self.page_shift
        for page, start in enumerate(range(0, self.code_limit, step)):
            code = self.data[start:min(start + step, self.code_limit)]
            yield page, self.hashes + page * self.hash_size, hashlib.sha256(code).digest()

    def problems(self, text_size):
        """What macOS would refuse, as sentences. `text_size` is the length of `__TEXT` in the file."""
        if self.hash_type != SHA256 or self.hash_size != 32:
            yield f"hashes are of type {self.hash_type} and {self.hash_size} bytes, not SHA-256"
            return
        if self.page_shift not in PAGE_SIZES:
            yield f"pages of 2^{self.page_shift} bytes"
            return
        if not self.flags & FLAG_ADHOC:
            yield f"flags {self.flags:#x} do not say that the signature is ad hoc"
        if not self.identifier:
            yield "the identifier is empty"
        if self.code_limit != self.offset:
            yield f"it covers {self.code_limit} bytes, the signature begins at {self.offset}"
            return
        if (self.exec_base, self.exec_limit) != (0, text_size):
            yield f"its executable segment is {self.exec_base}+{self.exec_limit}, __TEXT is 0+{text_size}"
        if not self.exec_flags & EXEC_SEGMENT_MAIN_BINARY:
            yield "its executable segment is not marked as that of a main binary"
        pages = list(self.pages())
        if self.code_slots != len(pages):
            yield f"it has {self.code_slots} hashes for {len(pages)} pages"
            return
        for page, place, digest in pages:
            if self.data[place:place + self.hash_size] != digest:
                yield f"the hash of page {page} (bytes {page << self.page_shift:#x} and on) is wrong"
        for slot in range(1, self.special_slots + 1):
            place = self.hashes - slot * self.hash_size
            digest = bytes(self.hash_size)
            if slot in self.blobs:
                start, length = self.blobs[slot]
                digest = hashlib.sha256(self.data[start:start + length]).digest()
            if self.data[place:place + self.hash_size] != digest:
                yield f"the hash of special slot {slot} is wrong"
        for slot in self.blobs:
            if self.special_slots < slot < FIRST_UNHASHED_SLOT:
                yield f"blob {slot} has no hash in the code directory"


def sign(data, offset, size):
    """`data` with the hashes of all its pages right: for faults that the signature must not give away."""
    signed = bytearray(data)
    directory = CodeDirectory(data, offset, size)
    for _, place, digest in directory.pages():
        signed[place:place + directory.hash_size] = digest
    return bytes(signed)
