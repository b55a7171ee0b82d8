"""Builds the images of the operator and of the trainer (CPU). Usage: build.py PROGRAMS CACHE OUT [PREFIX]

PROGRAMS: folder with `plumbline` and `plumbline-trainer`, built in any profile. CACHE: folder whose `packages` are the
unpacked wheels of torch and CUDA; packages of Debian are kept there too. OUT gets operator.tar, trainer.tar, and for each
what it is made of, as *.cdx.json. Run it from the repository's root.
"""

import re
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import debian
import oci
import sbom

USER = 65532
LIBRARIES = "lib/x86_64-linux-gnu"
TORCH = "usr/lib/plumbline"
# The libraries that the CPU half of libtorch loads. It is linked against the CUDA runtime and its profiler also where there
# is no GPU, and looks for them relative to itself, so folders are as in the wheels.
TORCH_LIBRARIES = [
    *(f"torch/lib/{name}" for name in ("libtorch_cpu.so", "libc10.so", "libgomp.so.1")),
    *(f"nvidia/cu13/lib/{name}" for name in ("libcudart.so.13", "libcupti.so.13")),
]
BASE_PACKAGES = {
    "base-files": ["etc/os-release", "usr/lib/os-release", "etc/debian_version"],
    "libc6": [
        "lib64/*",
        *(f"{LIBRARIES}/{name}" for name in ("ld-linux-x86-64.so.2", "libc.so.6", "libm.so.6")),
        # Empty since glibc 2.34, and still named by libraries that are older.
        *(f"{LIBRARIES}/{name}" for name in ("libdl.so.2", "libpthread.so.0", "librt.so.1", "libutil.so.1")),
    ],
    "libgcc-s1": [f"{LIBRARIES}/libgcc_s.so.1"],
    "gcc-12-base": [],
    "tzdata": ["usr/share/zoneinfo/[!rp]*", "usr/share/zoneinfo/posixrules"],
}
TORCH_PACKAGES = {"libstdc++6": ["usr/lib/x86_64-linux-gnu/libstdc++.so.6*"]}


@dataclass(frozen=True)
class Image:
    """What differs between the images."""

    name: str
    description: str
    # The program's file, and its path in the image.
    program: str
    path: str
    torch: bool


IMAGES = [
    Image("operator", "Runs RLAIF on Kubernetes", "plumbline", "plumbline", torch=False),
    Image("trainer", "One stage of a run, on CPU", "plumbline-trainer", "usr/bin/plumbline-trainer", torch=True),
]


class Debian:
    """The pinned packages."""

    def __init__(self, cache: Path) -> None:
        self.cache, self.pins = cache, debian.read_pins(Path("images/debian.txt"))

    def fetch(self, name: str) -> Path:
        return debian.fetch(name, *self.pins[name], self.cache)

    def unpack(self, packages: dict[str, list[str]], tree: oci.Tree) -> None:
        for name, patterns in packages.items():
            licence = [f"usr/share/doc/{name}/copyright", f"usr/share/doc/{name}"]
            debian.unpack(self.fetch(name), patterns + licence, tree)

    def components(self, names: list[str]) -> list[dict]:
        pins = [(name, self.pins[name][0]) for name in sorted(names)]
        system = "?arch=amd64&distro=debian-12"
        return [sbom.component("deb", f"debian/{name}", version, qualifiers=system) for name, version in pins]


def base(packages: Debian) -> oci.Tree:
    """What both programs need of a system: the C library, certificates, time zones, and users by name."""
    tree = oci.Tree()
    packages.unpack(BASE_PACKAGES, tree)
    package = packages.fetch("ca-certificates")
    certificates = debian.read(package, ["usr/share/ca-certificates/mozilla/*.crt"])
    bundle = b"".join(pem for _, pem in sorted(certificates, key=lambda certificate: certificate[0].name))
    tree.file("etc/ssl/certs/ca-certificates.crt", bundle)
    packages.unpack({"ca-certificates": []}, tree)
    users = [("root", 0, "/root"), ("nonroot", USER, "/tmp")]
    tree.file("etc/passwd", "".join(f"{n}:x:{i}:{i}:{n}:{home}:/sbin/nologin\n" for n, i, home in users).encode())
    tree.file("etc/group", "".join(f"{name}:x:{id}:\n" for name, id, _ in users).encode())
    tree.file("etc/nsswitch.conf", b"hosts: files dns\n")
    tree.folder("tmp", 0o1777)
    return tree


def libtorch(packages: Debian, wheels: Path) -> oci.Tree:
    """What changes with the version of libtorch only."""
    tree = oci.Tree()
    packages.unpack(TORCH_PACKAGES, tree)
    for name in TORCH_LIBRARIES:
        tree.file(f"{TORCH}/{name}", wheels / name, 0o755)
    for licence in sorted(wheels.glob("*.dist-info/**/*")):
        if re.match("licen[cs]e|notice", licence.name, re.IGNORECASE) and licence.is_file():
            tree.file(f"{TORCH}/{licence.relative_to(wheels)}", licence)
    return tree


def without_debug_info(program: Path, folder: Path) -> Path:
    """A copy. Of a program that is not optimised, this is most of its size; names of functions stay, for backtraces."""
    folder.mkdir(exist_ok=True)
    copy = folder / program.name
    subprocess.run(["strip", "--strip-debug", "-o", copy, program], check=True)
    return copy


def program(file: Path, path: str, bom: bytes) -> oci.Tree:
    """What changes with every build."""
    tree = oci.Tree()
    tree.file(path, file, 0o755)
    tree.file(f"usr/share/sbom/{file.name}.cdx.json", bom)
    return tree


def torch_components(wheels: Path) -> list[dict]:
    """The wheels that libraries are taken from."""
    names = [re.fullmatch(r"(.+)-(.+)\.dist-info", path.name) for path in sorted(wheels.glob("*.dist-info"))]
    return [sbom.component("pypi", match[1].replace("_", "-"), match[2]) for match in names if match]


def check_libraries(image: str, trees: list[oci.Tree]) -> None:
    """Every library that a program or library names is in the image. The loader would say so only when a run starts."""
    entries = {path: content for tree in trees for path, (_, content) in tree.entries.items()}
    names = {Path(path).name for path in entries}
    for path, content in entries.items():
        if not isinstance(content, Path) or not is_elf(content):
            continue
        printed = subprocess.run(["readelf", "--dynamic", content], check=True, capture_output=True, text=True).stdout
        missing = set(re.findall(r"\(NEEDED\).*\[(.+)\]", printed)) - names
        if missing:
            sys.exit(f"error: {image}: /{path} needs {', '.join(sorted(missing))}; add it to images/build.py")


def is_elf(file: Path) -> bool:
    with open(file, "rb") as opened:
        return opened.read(4) == b"\x7fELF"


def config(image: Image, version: str) -> dict:
    """How a container of it runs (image-spec, `config`). A build of changed sources names no commit."""
    title = f"Plumbline {image.name}"
    labels = {"title": title, "description": image.description, "version": version, "licenses": "Apache-2.0"}
    if not subprocess.run(["git", "status", "--porcelain"], check=True, capture_output=True).stdout:
        head = subprocess.run(["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
        labels["revision"] = head.strip()
    environment = ["PATH=/usr/bin", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"]
    if image.torch:
        environment.append(f"LD_LIBRARY_PATH=/{TORCH}/torch/lib")
    return {
        "User": f"{USER}:{USER}",
        "Entrypoint": [f"/{image.path}"],
        "Env": environment,
        "WorkingDir": "/",
        "Labels": {f"org.opencontainers.image.{name}": value for name, value in labels.items()},
    }


def main(programs: Path, cache: Path, out: Path, prefix: str) -> None:
    out.mkdir(parents=True, exist_ok=True)
    wheels = cache / "packages"
    version = tomllib.loads(Path("Cargo.toml").read_text())["workspace"]["package"]["version"]
    packages = Debian(cache / "debian")
    common, torch = base(packages), libtorch(packages, wheels)
    in_common = packages.components([*BASE_PACKAGES, "ca-certificates"])
    in_torch = packages.components(list(TORCH_PACKAGES)) + torch_components(wheels)
    used = set()
    for image in IMAGES:
        name = f"{prefix}/plumbline-{image.name}"
        parts = in_common + (in_torch if image.torch else []) + sbom.crates(f"plumbline-{image.name}")
        bom = sbom.document(name, version, parts)
        (out / f"{image.name}.cdx.json").write_bytes(bom)
        file = without_debug_info(programs / image.program, out / "programs")
        # What changes seldom is below what changes often: of a new build only the last layer is pulled.
        trees = [common, *([torch] if image.torch else []), program(file, image.path, bom)]
        check_libraries(name, trees)
        layers = [oci.make_layer(tree, out / "layers") for tree in trees]
        used.update(layer.file for layer in layers)
        digest = oci.write_image(out / f"{image.name}.tar", f"{name}:{version}", layers, config(image, version))
        sizes = " + ".join(f"{layer.size / 1e6:.1f}" for layer in layers)
        unpacked = sum(entry.size for tree in trees for entry, _ in tree.entries.values()) / 1e6
        print(f"  {name}:{version} {digest}\n    {sizes} MB compressed, {unpacked:.0f} MB unpacked")
    for old in set((out / "layers").iterdir()) - used:
        old.unlink()


if __name__ == "__main__":
    if len(sys.argv) not in (4, 5):
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:4]), *(sys.argv[4:] or ["plumbline.dev"]))
