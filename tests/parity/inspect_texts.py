"""Our logits of every text, compared with transformers'. Usage: inspect_texts.py TRAINER MODEL_DIR"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import golden


def main(trainer: str, model_dir: str) -> None:
    texts = json.loads((golden.FOLDER / "smollm2_logits.json").read_text(encoding="utf-8"))["texts"]
    check = Path(__file__).with_name("check_saved.py")
    for entry in texts:
        with tempfile.TemporaryDirectory() as folder:
            logits = str(Path(folder) / "logits.safetensors")
            inspect = [trainer, "inspect", "--model", model_dir, "--text", entry["text"], "--logits", logits]
            subprocess.run(inspect, check=True, stdout=subprocess.DEVNULL)
            print(f"{entry['name']}: ", end="", flush=True)
            subprocess.run([sys.executable, check, model_dir, logits, "--tolerance", str(entry["tolerance"])], check=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
