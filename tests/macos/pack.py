"""Packs the executable with instructions and licences: anneal-VERSION-macos-arm64.tar.gz.

    cargo metadata … | python pack.py BINARY FOLDER

Reads what cargo knows of the packages from standard input. The same input gives the same bytes: no times, no
owners, names in order.
"""

import gzip
import io
import json
import pathlib
import sys
import tarfile

HERE = pathlib.Path(__file__).parent
LICENCE_FILES = ("license", "licence", "copying", "notice", "unlicense", "copyright")


def contained(metadata):
    """The packages that the binary contains: what `anneal` needs, without tests and build scripts."""
    packages = {package["id"]: package for package in metadata["packages"]}
    needs = {
        node["id"]: [d["pkg"] for d in node["deps"] if any(kind["kind"] is None for kind in d["dep_kinds"])]
        for node in metadata["resolve"]["nodes"]
    }
    todo = [id for id in metadata["workspace_members"] if packages[id]["name"] == "anneal"]
    assert todo, "the workspace has no package anneal"
    seen = set()
    while todo:
        id = todo.pop()
        if id not in seen:
            seen.add(id)
            todo += needs[id]
    return [packages[id] for id in seen]


def third_party(packages):
    """Every package of others with its licence; each text once, under the names of all whose text it is."""
    others = sorted((p for p in packages if p["source"]), key=lambda p: (p["name"], p["version"]))
    texts = {}
    lines = ["What anneal contains of others, and under which licence.", ""]
    lines.append("The Rust standard library: MIT OR Apache-2.0, https://www.rust-lang.org")
    for package in others:
        name = f"{package['name']} {package['version']}"
        licence = package["license"] or f"see {package['license_file']}"
        lines.append(f"{name}: {licence}, {package['repository'] or 'https://crates.io/crates/' + package['name']}")
        for path in sorted(pathlib.Path(package["manifest_path"]).parent.iterdir()):
            if path.is_file() and path.name.lower().startswith(LICENCE_FILES):
                text = "\n".join(line.rstrip() for line in path.read_text(errors="replace").strip().splitlines())
                texts.setdefault(text, []).append(name)
    for text, names in texts.items():
        lines += ["", "=" * 80, ", ".join(dict.fromkeys(names)), "=" * 80, "", text]
    return "\n".join(lines) + "\n"


def main():
    binary, folder = map(pathlib.Path, sys.argv[1:])
    packages = contained(json.load(sys.stdin))
    version = next(package["version"] for package in packages if package["name"] == "anneal")
    name = f"anneal-{version}-macos-arm64"
    files = {
        "INSTALL.md": ((HERE / "INSTALL.md").read_bytes(), 0o644),
        "THIRD-PARTY.txt": (third_party(packages).encode(), 0o644),
        "anneal": (binary.read_bytes(), 0o755),
    }
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for file, (content, mode) in sorted(files.items()):
            entry = tarfile.TarInfo(f"{name}/{file}")
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    archive = folder / f"{name}.tar.gz"
    archive.write_bytes(gzip.compress(packed.getvalue(), mtime=0))
    print(archive)


if __name__ == "__main__":
    main()
