"""What the comparisons with TRL share: the pairs, a run of our trainer, a run of one of TRL's, and the comparison step by step.

Both train all weights of the tests' tiny model in 32 bits with plain AdamW, on the pairs in the order of the file. TRL gets our
tokens.
"""

import json
import subprocess
import sys
from pathlib import Path

from check_tuned import resource
from torch.utils.data import SequentialSampler
from transformers import AutoTokenizer, PrinterCallback

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "tiny"
STEPS, BATCH, RATE = 20, 8, 1e-4
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-2
# Of the arguments of TRL's trainers, those that are the same for all.
ARGUMENTS = {
    "max_steps": STEPS,
    "per_device_train_batch_size": BATCH,
    "learning_rate": RATE,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.0,
    "max_grad_norm": 1.0,
    "max_length": 128,
    "bf16": False,
    "activation_checkpointing": False,
    "use_cpu": True,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": [],
    "disable_tqdm": True,
}


def pairs() -> list[dict]:
    return [json.loads(line) for line in (FIXTURES / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]


def write(records: list[dict], folder: Path) -> Path:
    """The pairs as a dataset, as if all were of one prompt: pairs of a prompt stay in order."""
    (folder / "data").mkdir(parents=True)
    for split, lines in [("train", records), ("validation", records[:1])]:
        named = [record | {"prompt_id": split} for record in lines]
        path = folder / "data" / f"{split}-00000.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in named), encoding="utf-8")
    return folder


def ours(trainer: str, folder: Path, data: Path, kind: str, spec: dict, rate: float = RATE) -> list[dict]:
    """The metrics of our trainer."""
    training = {
        "maxSteps": STEPS,
        "epochs": 10,
        "batchSize": BATCH,
        "microBatchSize": BATCH,
        "learningRate": rate,
        "schedule": {"type": "Constant"},
        "optimizer": {"weightDecay": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "maxGradNorm": 1.0},
        "maxLength": 128,
    }
    stage, model = {"PolicyTuning": ("tune", "policyModel"), "RewardModel": ("reward", "baseModel")}[kind]
    spec = spec | {model: {"uri": str(TINY)}, "dataset": {"uri": str(data)}, "training": training}
    inputs = {model: TINY, "dataset": data}
    document = {
        "resource": resource(kind, spec),
        "inputs": [{"role": r, "name": str(p), "path": str(p), "digest": ""} for r, p in inputs.items()],
        "output": str(folder / "artifact"),
        "work": str(folder / "work"),
    }
    folder.mkdir()
    (folder / "run.yaml").write_text(json.dumps(document))  # JSON is YAML
    done = subprocess.run([trainer, stage, "--run", folder / "run.yaml"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{stage} ended with {done.returncode}:\n{done.stderr}")
    return [json.loads(line) for line in (folder / "work" / "metrics.jsonl").read_text().splitlines()]


class InOrder:
    """For a trainer of TRL: reads pairs that are tokens already, in their order, and keeps the losses, which the log rounds."""

    def _prepare_dataset(self, dataset, *_args, **_kwargs):
        return dataset

    def _get_train_sampler(self, *_args, **_kwargs):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss

    def steps(self) -> list[dict]:
        """Trains, and gives loss and gradient norm of each step."""
        self.remove_callback(PrinterCallback)
        self.losses = []
        self.train()
        norms = [entry["grad_norm"] for entry in self.state.log_history if "grad_norm" in entry]
        return [{"loss": loss, "grad_norm": norm} for loss, norm in zip(self.losses, norms, strict=True)]


def tokens(record: dict) -> dict:
    """A pair as our trainer tokenises it: prompt and response as one text, without an end token."""
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    prompt = tokenizer(record["prompt"])["input_ids"]
    sides = [tokenizer(record["prompt"] + record[side])["input_ids"] for side in ("chosen", "rejected")]
    common = min(shared(prompt, side) for side in sides)
    if common != max(shared(prompt, side) for side in sides):
        sys.exit(f"chosen and rejected divide the prompt's last token differently, which TRL has no form for: {record}")
    return {"prompt_ids": prompt[:common], "chosen_ids": sides[0][common:], "rejected_ids": sides[1][common:]}


def shared(prompt: list[int], whole: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), len(prompt))


def compare(name: str, found: list[dict], expected: list[dict]) -> None:
    """Ends the program unless losses and gradient norms agree at each step, and the loss has moved."""
    if not len(found) == len(expected) == STEPS:
        sys.exit(f"{name}: expected {STEPS} steps, found {len(found)} of ours and {len(expected)} of TRL")
    worst = {"loss": 0.0, "grad_norm": 0.0}
    for step, (one, other) in enumerate(zip(found, expected), 1):
        for metric, tolerance in (("loss", LOSS_TOLERANCE), ("grad_norm", NORM_TOLERANCE)):
            off = abs(one[metric] - other[metric]) / max(1.0, abs(other[metric]))
            worst[metric] = max(worst[metric], off)
            if not off <= tolerance:
                sys.exit(f"{name}, step {step}: {metric} is {one[metric]}, and {other[metric]} in TRL")
    moved = max(abs(step["loss"] - expected[0]["loss"]) for step in expected)
    shown = f"loss within {worst['loss']:.1g}, gradient norm within {worst['grad_norm']:.1g}"
    print(f"{name}: {shown}; the loss moved by {moved:.2g}", flush=True)
    if not moved > 50 * LOSS_TOLERANCE:
        sys.exit(f"{name}: the loss has hardly moved, which checks nothing")
