"""Trains the tests' tiny model with TRL and with our trainer on the same pairs, and compares loss and gradient norm of each step.

Usage: trl_dpo.py TRAINER

Both get all weights in 32 bits, plain AdamW, and the pairs in the order of the file; TRL gets our tokens. Losses may differ by
1e-4 of their size, gradient norms by 1e-2. Sft is not among the losses: TRL's depends on how a batch is divided.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from check_tuned import resource
from datasets import Dataset
from torch.utils.data import SequentialSampler
from transformers import AutoModelForCausalLM, AutoTokenizer, PrinterCallback
from trl import DPOConfig, DPOTrainer

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
TINY = FIXTURES / "tiny"
STEPS, BATCH, RATE = 20, 8, 1e-4
LOSS_TOLERANCE, NORM_TOLERANCE = 1e-4, 1e-2
# Ours, TRL's, and the settings of both.
SETTINGS = {
    "Sigmoid": ("sigmoid", {}),
    "SigmoidNorm": ("sigmoid_norm", {}),
    "Hinge": ("hinge", {}),
    "Ipo": ("ipo", {}),
    "Robust": ("robust", {"labelSmoothing": 0.1}),
    "ExoPair": ("exo_pair", {"labelSmoothing": 0.1}),
    "NcaPair": ("nca_pair", {}),
    "BcoPair": ("bco_pair", {}),
    "SppoHard": ("sppo_hard", {}),
    "ApoZero": ("apo_zero", {}),
    "ApoDown": ("apo_down", {}),
    "Discopop": ("discopop", {}),
}


def main(trainer: str) -> None:
    records = [json.loads(line) for line in (FIXTURES / "pairs.jsonl").read_text(encoding="utf-8").splitlines()]
    cases = [(loss, {"loss": loss} | more, ([theirs], [1.0])) for loss, (theirs, more) in SETTINGS.items()]
    weighted = {"losses": [{"loss": "Sigmoid", "weight": 0.7}, {"loss": "BcoPair", "weight": 0.3}]}
    cases.append(("Sigmoid and BcoPair", weighted, (["sigmoid", "bco_pair"], [0.7, 0.3])))
    with tempfile.TemporaryDirectory() as scratch:
        data = write(records, Path(scratch) / "data")
        for name, dpo, theirs in cases:
            found = ours(trainer, Path(scratch) / name.replace(" ", "-"), data, dpo)
            expected = with_trl(records, theirs, dpo.get("labelSmoothing", 0.0), Path(scratch) / "trl")
            compare(name, found, expected)


def write(records: list[dict], folder: Path) -> Path:
    """The pairs as a dataset whose pairs are all of one prompt, as far as the order goes: pairs of a prompt stay in order."""
    (folder / "data").mkdir(parents=True)
    for split, lines in [("train", records), ("validation", records[:1])]:
        named = [record | {"prompt_id": split} for record in lines]
        path = folder / "data" / f"{split}-00000.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in named), encoding="utf-8")
    return folder


def ours(trainer: str, folder: Path, data: Path, dpo: dict) -> list[dict]:
    training = {
        "maxSteps": STEPS,
        "epochs": 10,
        "batchSize": BATCH,
        "microBatchSize": BATCH,
        "learningRate": RATE,
        "schedule": {"type": "Constant"},
        "optimizer": {"weightDecay": 0.0, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "maxGradNorm": 1.0},
        "maxLength": 128,
    }
    spec = {"method": "DPO", "policyModel": {"uri": str(TINY)}, "dataset": {"uri": str(data)}, "dpo": dpo}
    inputs = {"policyModel": TINY, "dataset": data}
    document = {
        "resource": resource("PolicyTuning", spec | {"training": training}),
        "inputs": [{"role": r, "name": str(p), "path": str(p), "digest": ""} for r, p in inputs.items()],
        "output": str(folder / "artifact"),
        "work": str(folder / "work"),
    }
    folder.mkdir()
    (folder / "run.yaml").write_text(json.dumps(document))  # JSON is YAML
    done = subprocess.run([trainer, "tune", "--run", folder / "run.yaml"], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"tune ended with {done.returncode}:\n{done.stderr}")
    return [json.loads(line) for line in (folder / "work" / "metrics.jsonl").read_text().splitlines()]


class InOrder(DPOTrainer):
    """Reads pairs that are tokens already, in their order, and keeps the losses that the log rounds."""

    def _prepare_dataset(self, dataset, *_args, **_kwargs):
        return dataset

    def _get_train_sampler(self, *_args, **_kwargs):
        return SequentialSampler(self.train_dataset)

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        self.losses.append(loss.item())
        return loss


def with_trl(records: list[dict], theirs: tuple[list[str], list[float]], smoothing: float, folder: Path) -> list[dict]:
    types, weights = theirs
    config = DPOConfig(
        output_dir=str(folder),
        loss_type=types,
        loss_weights=weights,
        beta=0.1,
        label_smoothing=smoothing,
        max_steps=STEPS,
        per_device_train_batch_size=BATCH,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        weight_decay=0.0,
        max_grad_norm=1.0,
        max_length=128,
        bf16=False,
        activation_checkpointing=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(TINY, dtype=torch.float32, attn_implementation="eager")
    tokenizer = AutoTokenizer.from_pretrained(TINY)
    pairs = Dataset.from_list([tokens(tokenizer, record) for record in records])
    trainer = InOrder(model=model, args=config, train_dataset=pairs, processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    trainer.losses = []
    trainer.train()
    norms = [entry["grad_norm"] for entry in trainer.state.log_history if "grad_norm" in entry]
    return [{"loss": loss, "grad_norm": norm} for loss, norm in zip(trainer.losses, norms, strict=True)]


def tokens(tokenizer, record: dict) -> dict:
    """A pair as our trainer tokenises it: prompt and response as one text, without an end token."""
    prompt = tokenizer(record["prompt"])["input_ids"]
    sides = [tokenizer(record["prompt"] + record[side])["input_ids"] for side in ("chosen", "rejected")]
    common = min(shared(prompt, side) for side in sides)
    if common != max(shared(prompt, side) for side in sides):
        sys.exit(f"the sides of this pair divide its prompt's last token differently, which TRL cannot express: {record}")
    return {"prompt_ids": prompt[:common], "chosen_ids": sides[0][common:], "rejected_ids": sides[1][common:]}


def shared(prompt: list[int], whole: list[int]) -> int:
    return next((i for i, (a, b) in enumerate(zip(prompt, whole)) if a != b), len(prompt))


def compare(name: str, found: list[dict], expected: list[dict]) -> None:
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
    print(f"{name}: loss within {worst['loss']:.1g}, gradient norm within {worst['grad_norm']:.1g}; the loss moved by {moved:.2g}", flush=True)
    if not moved > 100 * LOSS_TOLERANCE:
        sys.exit(f"{name}: the loss has not moved, which checks nothing")


if __name__ == "__main__":
    main(sys.argv[1])
