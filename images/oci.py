"""Container images as OCI layouts in tars (image-spec 1.1). Talks to files.

The same content gives the same bytes: entries are sorted, and nothing in them tells a time, a user or a path of this machine.
"""

import gzip
import hashlib
import io
import json
import os
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

IMAGE_SPEC = "application/vnd.oci.image"


class Tree:
    """The files of a layer, by their path in the image without the slash at its beginning."""

    def __init__(self) -> None:
        self.entries: dict[str, tuple[tarfile.TarInfo, bytes | Path | None]] = {}

    def folder(self, path: str, mode: int = 0o755) -> None:
        self._add(path, tarfile.DIRTYPE, mode, None)

    def link(self, path: str, target: str) -> None:
        self._add(path, tarfile.SYMTYPE, 0o777, None).linkname = target

    def file(self, path: str, content: bytes | Path, mode: int = 0o644) -> None:
        """`content` is the bytes, or the file of this machine that has them."""
        entry = self._add(path, tarfile.REGTYPE, mode, content)
        entry.size = len(content) if isinstance(content, bytes) else content.stat().st_size

    def _add(self, path: str, kind: bytes, mode: int, content: bytes | Path | None) -> tarfile.TarInfo:
        for parent in PurePosixPath(path).parents:
            if str(parent) not in (".", *self.entries):
                self.folder(str(parent))
        entry = tarfile.TarInfo(path)
        entry.type, entry.mode = kind, mode
        self.entries[path] = (entry, content)
        return entry

    def write(self, out) -> None:
        """As a tar. Owner and times are those of a new TarInfo: 0."""
        with tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT) as archive:
            for _, (entry, content) in sorted(self.entries.items()):
                if isinstance(content, Path):
                    with open(content, "rb") as source:
                        archive.addfile(entry, source)
                else:
                    archive.addfile(entry, io.BytesIO(content or b""))


class Digesting:
    """A file to write to, which knows the digest and size of what was written."""

    def __init__(self, out=None) -> None:
        self.out, self.sha256, self.size = out, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.sha256.update(data)
        self.size += len(data)
        return self.out.write(data) if self.out else len(data)

    def digest(self) -> str:
        return f"sha256:{self.sha256.hexdigest()}"


@dataclass(frozen=True)
class Layer:
    """A compressed layer in a file, and the digest of what it unpacks to."""

    file: Path
    diff_id: str
    digest: str
    size: int


def make_layer(tree: Tree, cache: Path) -> Layer:
    """Compresses a layer, unless that was done before: half a gigabyte takes half a minute."""
    unpacked = Digesting()
    tree.write(unpacked)
    file = cache / f"{unpacked.digest().removeprefix('sha256:')}.tar.gz"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial")
        with open(partial, "wb") as out, gzip.GzipFile("", "wb", compresslevel=6, fileobj=out, mtime=0) as packed:
            tree.write(packed)
        os.replace(partial, file)
    packed = Digesting()
    with open(file, "rb") as source:
        while block := source.read(1 << 20):
            packed.write(block)
    return Layer(file, unpacked.digest(), packed.digest(), packed.size)


def write_image(out: Path, name: str, layers: list[Layer], config: dict) -> str:
    """Writes an image that is called `name`, with a runtime configuration (image-spec, `config`). Gives its digest."""
    blobs: dict[str, bytes | Path] = {layer.digest: layer.file for layer in layers}

    def blob(kind: str, value: dict) -> dict:
        content = to_json(value)
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        blobs[digest] = content
        return {"mediaType": f"{IMAGE_SPEC}.{kind}+json", "digest": digest, "size": len(content)}

    rootfs = {"type": "layers", "diff_ids": [layer.diff_id for layer in layers]}
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{IMAGE_SPEC}.manifest.v1+json",
        "config": blob("config.v1", {"architecture": "amd64", "os": "linux", "config": config, "rootfs": rootfs}),
        "layers": [
            {"mediaType": f"{IMAGE_SPEC}.layer.v1.tar+gzip", "digest": layer.digest, "size": layer.size}
            for layer in layers
        ],
    }
    described = blob("manifest.v1", manifest)
    # containerd, and what reads layouts by tag, each have a key of their own for the name.
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    index = {
        "schemaVersion": 2,
        "mediaType": f"{IMAGE_SPEC}.index.v1+json",
        "manifests": [described | {"annotations": names}],
    }
    layout = Tree()
    layout.file("oci-layout", to_json({"imageLayoutVersion": "1.0.0"}))
    layout.file("index.json", to_json(index))
    for digest, content in blobs.items():
        layout.file(f"blobs/{digest.replace(':', '/')}", content)
    partial = out.with_suffix(".partial")
    with open(partial, "wb") as file:
        layout.write(file)
    os.replace(partial, out)
    return described["digest"]


def to_json(value: dict) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()
