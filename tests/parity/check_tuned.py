"""Tunes SmolLM2 for two steps with our trainer, and checks that what it saves loads in transformers and PEFT as it is.

Usage: check_tuned.py TRAINER MODEL_DIR

Folders are made and checked of a policy merged into one model, of the same tuning as a PEFT adapter, and of a reward model;
the first and the last once more from a base model in BFloat16, as transformers 5 writes it.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import check_saved
import golden
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PREFERENCES = Path(__file__).with_name("preferences.jsonl")
# Steps as long as these move logits far beyond the tolerance: a check that the weights are used, not only loaded.
TRAINING = {"maxSteps": 2, "batchSize": 4, "microBatchSize": 4, "learningRate": 0.01, "maxLength": 256}
MOVED = 0.1


def main(trainer: str, model: Path) -> None:
    texts = json.loads((golden.FOLDER / "smollm2_logits.json").read_text(encoding="utf-8"))["texts"]
    before = [check_saved.inspect(trainer, model, None, entry["text"])["logits"] for entry in texts]
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        everywhere = {"rank": 4, "alpha": 8, "save": "Merged"}
        some = {"rank": 4, "alpha": 8, "save": "Adapter", "targets": ["q_proj", "down_proj"], "lastLayers": 12}

        print("tuned by DPO, merged:", flush=True)
        merged = train(trainer, root / "merged", policy(model, everywhere), {"policyModel": model})
        require_moved(before, check_saved.check(trainer, merged))

        print("tuned by DPO, a PEFT adapter:", flush=True)
        adapter = train(trainer, root / "adapter", policy(model, some), {"policyModel": model})
        require_moved(before, check_saved.check(trainer, adapter, model))

        print("reward model:", flush=True)
        reward = train(trainer, root / "reward", reward_model(model, everywhere), {"baseModel": model})
        scores = torch.cat(check_saved.check(trainer, reward))
        if not scores.std() > 100 * check_saved.SCORE_TOLERANCE:
            sys.exit(f"the scores are all but equal, which checks nothing: {scores.tolist()}")

        base = root / "bfloat16"
        AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).save_pretrained(base)
        AutoTokenizer.from_pretrained(model).save_pretrained(base)
        print("tuned by DPO from a base in BFloat16, merged:", flush=True)
        merged = train(trainer, root / "merged-bfloat16", policy(base, everywhere), {"policyModel": base})
        require_moved(before, check_saved.check(trainer, merged))
        require_type(merged, "bfloat16")

        print("reward model from a base in BFloat16:", flush=True)
        reward = train(trainer, root / "reward-bfloat16", reward_model(base, everywhere), {"baseModel": base})
        check_saved.check(trainer, reward)
        require_type(reward, "bfloat16")


def require_type(folder: Path, dtype: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    if config.get("dtype", config.get("torch_dtype")) != dtype:
        sys.exit(f"{folder}: expected weights in {dtype}, as the base has them")


def policy(model: Path, adapter: dict | None) -> dict:
    spec = {"method": "DPO", "policyModel": {"uri": str(model)}, "dataset": {"uri": str(PREFERENCES)}}
    return resource("PolicyTuning", spec | {"training": TRAINING | ({"adapter": adapter} if adapter else {})})


def reward_model(model: Path, adapter: dict) -> dict:
    spec = {"baseModel": {"uri": str(model)}, "dataset": {"uri": str(PREFERENCES)}}
    return resource("RewardModel", spec | {"training": TRAINING | {"adapter": adapter}})


def resource(kind: str, spec: dict) -> dict:
    return {"apiVersion": "plumbline.dev/v1alpha1", "kind": kind, "metadata": {"name": "parity"}, "spec": spec}


def train(trainer: str, folder: Path, resource: dict, inputs: dict[str, Path]) -> Path:
    """Runs the stage of a resource on a run document of our own; gives the folder of its artifact."""
    stage = {"PolicyTuning": "tune", "RewardModel": "reward"}[resource["kind"]]
    paths = inputs | {"dataset": PREFERENCES}
    document = {
        "resource": resource,
        "inputs": [{"role": r, "name": str(p), "path": str(p), "digest": ""} for r, p in paths.items()],
        "output": str(folder / "artifact"),
        "work": str(folder / "work"),
    }
    folder.mkdir()
    run = folder / "run.yaml"
    run.write_text(json.dumps(document))  # JSON is YAML
    done = subprocess.run([trainer, stage, "--run", run], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{stage} ended with {done.returncode}:\n{done.stderr}")
    return folder / "artifact"


def require_moved(before: list[torch.Tensor], after: list[torch.Tensor]) -> None:
    moved = min((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
    print(f"  moved from the base model by {moved:.2g} at least", flush=True)
    if not moved > MOVED:
        sys.exit(f"the tuned model is all but its base model, which checks nothing: {moved}")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
