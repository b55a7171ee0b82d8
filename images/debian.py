"""Files of pinned Debian packages. Talks to apt, dpkg and files."""

import hashlib
import io
import subprocess
import sys
import tarfile
from fnmatch import fnmatch
from pathlib import Path

from oci import Tree


def read_pins(file: Path) -> dict[str, tuple[str, str]]:
    """Version and SHA-256 of each package."""
    lines = [line.split() for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name: (version, sha256) for name, version, sha256 in lines}


def fetch(name: str, version: str, sha256: str, folder: Path) -> Path:
    """The package's file, downloaded unless it is there."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{sha256}.deb"
    if not file.exists():
        before = set(folder.iterdir())
        done = subprocess.run(["apt-get", "download", f"{name}={version}"], cwd=folder, capture_output=True, text=True)
        new = [path for path in set(folder.iterdir()) - before if path.suffix == ".deb"]
        if done.returncode or len(new) != 1:
            sys.exit(
                f"error: {name} {version} cannot be downloaded: {done.stderr.strip()}\nrun `apt-get update` on a Debian 12 "
                "machine; if Debian has replaced this version, pin the new one in images/debian.txt"
            )
        found = hashlib.sha256(new[0].read_bytes()).hexdigest()
        if found != sha256:
            new[0].unlink()
            sys.exit(f"error: {name} {version}: expected SHA-256 {sha256}, found {found}; nothing was unpacked")
        new[0].rename(file)
    return file


def control(package: Path) -> bytes:
    """The package's description, as dpkg's status has it."""
    return subprocess.run(["dpkg-deb", "--field", package], check=True, capture_output=True).stdout


def read(package: Path, patterns: list[str]) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The files and links whose path matches a pattern."""
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        wanted = [m for m in archive if not m.isdir() and any(fnmatch(m.name[2:], pattern) for pattern in patterns)]
        return [(member, b"" if member.issym() else archive.extractfile(member).read()) for member in wanted]


def unpack(package: Path, patterns: list[str], tree: Tree) -> None:
    """Puts what matches a pattern into a tree, and the package's description where scanners look for it."""
    for member, content in read(package, patterns):
        path = member.name[2:]
        if member.issym():
            tree.link(path, member.linkname)
        else:
            tree.file(path, content, member.mode & 0o777)
    tree.file(f"var/lib/dpkg/status.d/{package.name.rsplit('-', 1)[0]}", control(package))
