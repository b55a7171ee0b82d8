"""What an image is made of, as CycloneDX 1.5. Computes only, but for asking cargo."""

import json
import subprocess


def crates(package: str) -> list[dict]:
    """Every crate that is compiled into a package of the workspace, and this package."""
    command = ["cargo", "tree", "--locked", "--package", package, "--target", "x86_64-unknown-linux-gnu"]
    command += ["--edges", "normal", "--prefix", "none", "--no-dedupe", "--format", "{p}|{l}"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    found = {}
    for line in lines:
        crate, licence = line.split("|")
        name, version = crate.split()[:2]
        found[name, version] = licence
    parts = sorted(found.items())
    return [component("cargo", name, version.removeprefix("v"), licence) for (name, version), licence in parts]


def component(ecosystem: str, name: str, version: str, licence: str = "", qualifiers: str = "") -> dict:
    """One part, named by a package URL."""
    # In a package URL `+` is written out.
    url = f"pkg:{ecosystem}/{name}@{version}".replace("+", "%2B") + qualifiers
    part = {"type": "library", "bom-ref": url, "name": name.split("/")[-1], "version": version, "purl": url}
    if licence:
        # Old manifests write a slash for "or".
        part["licenses"] = [{"expression": licence.replace("/", " OR ")}]
    return part


def document(name: str, version: str, components: list[dict]) -> bytes:
    """Without the time and the serial number that are optional, and would differ each time."""
    subject = {"type": "container", "name": name, "version": version}
    bom = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "metadata": {"component": subject}}
    return json.dumps(bom | {"components": components}, indent=1).encode() + b"\n"
