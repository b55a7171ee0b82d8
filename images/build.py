"""Builds images. Usage: build.py PROGRAMS CACHE OUT [PREFIX [IMAGE...]]

PROGRAMS: folder with `plumbline` and `plumbline-trainer`, built in any profile. CACHE: folder whose `packages` are the
unpacked wheels of torch and of the part of CUDA that its CPU half is linked to, and `packages-cuda` the rest of CUDA; packages
of Debian are kept there too. IMAGE: `operator`, `trainer` (these two unless others are named) or `trainer-cuda`. OUT gets
IMAGE.tar, and what each is made of, as IMAGE.cdx.json. Run it from the repository's root.
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
# The half that computes on NVIDIA's GPUs, which the trainer loads by name, and what that half names or opens itself.
CUDA_LIBRARIES = [
    *(f"torch/lib/lib{name}.so" for name in ("torch_cuda", "torch_cuda_linalg", "c10_cuda", "torch_nvshmem", "caffe2_nvrtc")),
    *(f"nvidia/cu13/lib/lib{name}" for name in ("cublas.so.13", "cublasLt.so.13", "cufft.so.12", "cufile.so.0", "curand.so.10")),
    *(f"nvidia/cu13/lib/lib{name}" for name in ("cusolver.so.12", "cusparse.so.12", "nvJitLink.so.13")),
    *(f"nvidia/cu13/lib/lib{name}" for name in ("nvrtc.so.13", "nvrtc-builtins.so.13.0")),
    *(f"nvidia/cudnn/lib/libcudnn{part}.so.9" for part in ("", "_adv", "_cnn", "_graph", "_heuristic", "_ops")),
    *(f"nvidia/cudnn/lib/libcudnn_engines_{part}.so.9" for part in ("precompiled", "runtime_compiled")),
    "nvidia/cusparselt/lib/libcusparseLt.so.0",
    "nvidia/nccl/lib/libnccl.so.2",
    "nvidia/nvshmem/lib/libnvshmem_host.so.3",
]
# What NVIDIA's container toolkit brings into a container from its node.
DRIVER_LIBRARIES = {"libcuda.so.1"}
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
    torch: bool = False
    cuda: bool = False


TRAINER = ("plumbline-trainer", "usr/bin/plumbline-trainer")
IMAGES = [
    Image("operator", "Runs RLAIF on Kubernetes", "plumbline", "plumbline"),
    Image("trainer", "One stage of a run, on CPU", *TRAINER, torch=True),
    Image("trainer-cuda", "One stage of a run, on an NVIDIA GPU", *TRAINER, torch=True, cuda=True),
]
USUAL = ["operator", "trainer"]


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
    licences(wheels, tree)
    return tree


def cuda(wheels: Path, more: Path) -> oci.Tree:
    """The other half, and CUDA: it changes with the version of libtorch only, too."""
    tree = oci.Tree()
    for name in CUDA_LIBRARIES:
        folder = wheels if name.startswith("torch/") else more
        tree.file(f"{TORCH}/{name}", folder / name, 0o755)
    licences(more, tree)
    return tree


def licences(wheels: Path, tree: oci.Tree) -> None:
    """What the owners of the wheels ask to be passed on. One wheel has its licence beside its library."""
    for folder in ("*.dist-info/**/*", "nvidia/*/*"):
        for licence in sorted(wheels.glob(folder)):
            if re.match("licen[cs]e|notice", licence.name, re.IGNORECASE) and licence.is_file():
                tree.file(f"{TORCH}/{licence.relative_to(wheels)}", licence)


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


def check_libraries(image: str, trees: list[oci.Tree], elsewhere: set[str]) -> None:
    """Every library that a program or library names is in the image, or comes from elsewhere. The loader would say so only
    when a run starts."""
    entries = {path: content for tree in trees for path, (_, content) in tree.entries.items()}
    names = {Path(path).name for path in entries} | elsewhere
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
    if image.cuda:
        # Which parts of the driver a container gets. Which GPUs is not for an image to say: with `all` here, pods without a GPU
        # would see every GPU of their node. The rest makes cuBLAS give the same bits each time.
        environment += ["NVIDIA_DRIVER_CAPABILITIES=compute,utility", "CUBLAS_WORKSPACE_CONFIG=:4096:8"]
    return {
        "User": f"{USER}:{USER}",
        "Entrypoint": [f"/{image.path}"],
        "Env": environment,
        "WorkingDir": "/",
        "Labels": {f"org.opencontainers.image.{name}": value for name, value in labels.items()},
    }


def main(programs: Path, cache: Path, out: Path, prefix: str, wanted: list[str]) -> None:
    images = [image for image in IMAGES if image.name in wanted]
    if len(images) != len(wanted):
        sys.exit(f"error: expected images of {', '.join(image.name for image in IMAGES)}, found {', '.join(wanted)}")
    out.mkdir(parents=True, exist_ok=True)
    wheels, more = cache / "packages", cache / "packages-cuda"
    version = tomllib.loads(Path("Cargo.toml").read_text())["workspace"]["package"]["version"]
    packages = Debian(cache / "debian")
    common, torch = base(packages), libtorch(packages, wheels)
    in_common = packages.components([*BASE_PACKAGES, "ca-certificates"])
    in_torch = packages.components(list(TORCH_PACKAGES)) + torch_components(wheels)
    used = set()
    for image in images:
        name = f"{prefix}/plumbline-{image.name}"
        parts = in_common + (in_torch if image.torch else []) + (torch_components(more) if image.cuda else [])
        parts += sbom.crates("plumbline-trainer" if image.torch else "plumbline-operator")
        bom = sbom.document(name, version, parts)
        (out / f"{image.name}.cdx.json").write_bytes(bom)
        file = without_debug_info(programs / image.program, out / "programs")
        # What changes seldom is below what changes often: of a new build only the last layer is pulled.
        below = [common, *([torch] if image.torch else []), *([cuda(wheels, more)] if image.cuda else [])]
        trees = [*below, program(file, image.path, bom)]
        check_libraries(name, trees, DRIVER_LIBRARIES if image.cuda else set())
        layers = [oci.make_layer(tree, out / "layers") for tree in trees]
        used.update(layer.file for layer in layers)
        digest = oci.write_image(out / f"{image.name}.tar", f"{name}:{version}", layers, config(image, version))
        sizes = " + ".join(f"{layer.size / 1e6:.1f}" for layer in layers)
        unpacked = sum(entry.size for tree in trees for entry, _ in tree.entries.values()) / 1e6
        print(f"  {name}:{version} {digest}\n    {sizes} MB compressed, {unpacked:.0f} MB unpacked")
    for old in set((out / "layers").iterdir()) - used:
        old.unlink()


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    prefix, wanted = (sys.argv[4:] or ["plumbline.dev"])[0], sys.argv[5:] or USUAL
    main(*map(Path, sys.argv[1:4]), prefix, wanted)
