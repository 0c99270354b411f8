"""Scores of transformers for every trunk with a sequence head; needs torch.

    python -m tests.golden.make_scores            writes tests/golden/scorers/
    python -m tests.golden.make_scores --check    compares with it at 1e-5; exit code 1 on a gap

The beaver layout is no class of transformers: `Beaver` here follows safe-rlhf's model on top of
transformers' `LlamaModel`.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers.models.deberta_v2 import modeling_deberta_v2

from tests.golden import compare, score_cases


class Normaliser(torch.nn.Module):
    """What safe-rlhf stores beside the head."""

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("var", torch.ones(size))


class Beaver(transformers.LlamaPreTrainedModel):
    """safe-rlhf's LlamaForScore in evaluation: the score at the last attended token."""

    def __init__(self, config):
        super().__init__(config)
        self.model = transformers.LlamaModel(config)
        bias = getattr(config, "score_bias", getattr(config, "bias", False))
        self.score_head = torch.nn.Linear(config.hidden_size, config.score_dim, bias=bias)
        self.normalizer = Normaliser(config.score_dim)
        self.post_init()

    def forward(self, input_ids, attention_mask):
        hidden = self.model(input_ids, attention_mask=attention_mask).last_hidden_state
        ends = torch.stack([row.nonzero()[-1, 0] for row in attention_mask])
        scores = self.score_head(hidden).float()[torch.arange(len(ends)), ends]
        if self.config.do_normalize:
            if self.config.score_type == "reward":
                scores = scores - self.normalizer.mean
            scores = scores / (self.normalizer.var.sqrt() + 1e-8)
        return transformers.modeling_outputs.SequenceClassifierOutput(logits=scores)


def opener(config: dict[str, Any]) -> Any:
    beaver = "score_dim" in config
    return Beaver if beaver else transformers.AutoModelForSequenceClassification


def described(case: dict[str, Any]) -> dict[str, Any]:
    """`config.json` as the installed transformers saves it, and the shapes of the weights."""
    names = {int(number): name for number, name in case["id2label"].items()}
    config = transformers.AutoConfig.for_model(**case | {"id2label": names})
    model = Beaver(config) if "score_dim" in case else opener(case).from_config(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
    # A class of our own saves its own name.
    saved |= {"architectures": case.get("architectures", saved["architectures"])}
    del saved["transformers_version"]
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    return {"config": saved, "shapes": dict(sorted(shapes.items()))}


def open_model(folder: Path, config: dict[str, Any]) -> Any:
    """By transformers, with nothing missing and nothing left over."""
    model, report = opener(config).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    unmatched = {key: value for key, value in report.items() if value}
    if unmatched:
        raise RuntimeError(f"transformers did not take the weights as written: {unmatched}")
    return model.eval()


def scores_of(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    given = {
        "input_ids": torch.from_numpy(batch["ids"]),
        "attention_mask": torch.from_numpy(batch["mask"]).long(),
    }
    if batch["types"].any():
        given["token_type_ids"] = torch.from_numpy(batch["types"])
    with torch.no_grad():
        return model(**given).logits.numpy()


def bucket_tables() -> dict[str, np.ndarray]:
    """The bucket of every distance, for several numbers of buckets and longest distances."""
    distance = torch.arange(-score_cases.LONGEST, score_cases.LONGEST + 1)
    return {
        f"{buckets}_{longest}": modeling_deberta_v2.make_log_bucket_position(
            distance, buckets, longest
        )
        .numpy()
        .astype(np.int16)
        for buckets, longest in score_cases.BUCKETS
    }


def main() -> int:
    torch.set_num_threads(1)
    golden = compare.Golden(score_cases.FOLDER, compare.parse_check(__doc__ or ""), tolerance=1e-5)
    found = {name: described(case) for name, case in score_cases.CASES.items()}
    arrays: dict[str, np.ndarray] = {}
    for name, case in found.items():
        with tempfile.TemporaryDirectory() as folder:
            tensors = score_cases.weights(case["shapes"])
            score_cases.write_folder(Path(folder), case["config"], tensors)
            model = open_model(Path(folder), case["config"])
        batch = score_cases.batch(name)
        logits = scores_of(model, batch)
        arrays |= {f"{name}/{key}": value for key, value in (batch | {"logits": logits}).items()}
        if name in score_cases.ENDED:
            model.config.pad_token_id = score_cases.ENDED_BY
            batch = score_cases.ended(name)
            arrays |= {f"{name}/ended_ids": batch["ids"]}
            arrays |= {f"{name}/ended_logits": scores_of(model, batch)}
        print(f"{name}: {' '.join(f'{score:.3f}' for score in logits[:, 0])}")
    arrays |= {f"buckets/{name}": values for name, values in bucket_tables().items()}
    golden.config("cases.json", found | {"transformers_version": transformers.__version__})
    golden.arrays("golden.npz", arrays)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
