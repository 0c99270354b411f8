"""What guards say by transformers, read as their authors read them; needs torch.

    python -m tests.golden.make_guards            writes tests/golden/guards/
    python -m tests.golden.make_guards --check    compares with it at 1e-5; exit code 1 on a gap

The tokenizers are trained where they are missing, and kept.
"""

import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import pre_tokenizers, trainers

from safety_jax.judges.guards import (
    granite_guardian,
    harmbench,
    md_judge,
    nemotron,
    qwen3guard,
    shieldgemma,
    strongreject,
    wildguard,
)
from tests import tiny_tokenizers
from tests.golden import compare, guard_cases
from tests.golden.guard_cases import BYTES, PIECES

YES, UNSAFE = ("no", "yes"), ("safe", "unsafe")
BOTH, BARE, SPACED = ("", " "), ("",), (" ",)
Labels = Mapping[str, Sequence[str]]
EITHER: Labels = {"no": ["No", "no", " No", " no"], "yes": ["Yes", "yes", " Yes", " yes"]}
# A question: its name, what the answer has before it, its labels.
Question = tuple[str, str, Labels]


def led(words: Sequence[str], leads: Sequence[str]) -> Labels:
    return {word: [lead + word for lead in leads] for word in words}


def asked(case: str, row: dict[str, Any]) -> Iterator[tuple[list[Question], dict[str, Any]]]:
    """Of each form of a case: its questions, and what its chat template is given."""
    match guard_cases.kind(case):
        case "llama_guard" | "md_judge":
            yield [("verdict", "", led(UNSAFE, BOTH))], {}
        case "harmbench":
            yield [("verdict", "", EITHER)], {}
        case "wildguard":
            yield [(name, begin, led(YES, BOTH)) for name, begin in wildguard.FIELDS.items()], {}
        case "qwen3guard":
            verdicts = ("Safe", "Controversial", "Unsafe")
            questions = [
                ("safety", "Safety:", led(verdicts, SPACED)),
                ("category", "\nCategories:", led(qwen3guard.CATEGORIES, SPACED)),
                ("refusal", "\nRefusal:", led(("No", "Yes"), SPACED)),
            ]
            yield questions, {}
        case "shieldgemma":
            for name, text in row["guidelines"].items():
                given = {"guideline": text or shieldgemma.GUIDELINES[name]}
                yield [(name, "", led(("No", "Yes"), BARE))], given
        case "granite_guardian":
            yield from granite(row)
        case "strongreject":
            yield [("grade", "", led("12345", BARE))], {}
        case "nemotron":
            begun = nemotron.FIELDS.items()
            yield [(name, begin, led(UNSAFE, BARE)) for name, begin in begun], {}
        case "guard":
            yield [("verdict", row["begin"], led(("good", "bad"), BOTH))], {}


def granite(row: dict[str, Any]) -> Iterator[tuple[list[Question], dict[str, Any]]]:
    name, text = row["criterion"], row["definition"]
    tagged = ("criterion", granite_guardian.WITHOUT_THOUGHT, led(YES, SPACED))
    if row["version"] == "3.2":
        given = {"guardian_config": {"risk_name": name, "risk_definition": text}}
        yield [("criterion", "", EITHER)], given
    else:
        given = {"guardian_config": {"criteria_id": name}} if row["version"] == "3.3" else {}
        yield [tagged], given | {"think": False}


FORMS = {
    "wildguard": wildguard.FORM,
    "harmbench": harmbench.FORMS["llama2"],
    "harmbench_mistral": harmbench.FORMS["mistral"],
    "strongreject": strongreject.FORM,
    "md_judge": md_judge.FORM,
    "guard": guard_cases.OWN,
}
ASKING = ("llama_guard", "granite_guardian", "nemotron")


def filled(form: str, question: str, answer: str) -> str:
    before, behind = form.split("{prompt}")
    between, after = behind.split("{response}")
    return before + question + between + answer + after


def encoded(case: str, tokens: Any, said: tuple[str, str], given: dict[str, Any], row: Any) -> Any:
    """From what the guard has written to ids, as its authors have it."""
    question, answer = said
    kept = row.get("response_tokens")
    if kept:
        offsets = tokens(answer, add_special_tokens=False, return_offsets_mapping=True)
        ends = offsets["offset_mapping"]
        answer = answer if len(ends) <= kept else answer[: ends[kept - 1][1]]
    if case in FORMS:
        text = filled(FORMS[case], question, answer)
        special = not text.startswith("<s>")
        return lambda more: tokens(text + more, add_special_tokens=special).input_ids
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    if case == "nemotron":
        turns = [{"role": "user", "content": filled(nemotron.FORM, question, answer)}]
    if case == "granite_guardian_4.1":
        last = granite_guardian.LAST_MESSAGE.replace("{criterion}", row["definition"])
        turns.append({"role": "user", "content": last})
    text = tokens.apply_chat_template(
        turns, tokenize=False, add_generation_prompt=guard_cases.kind(case) in ASKING, **given
    )
    text += "\n\n" if case == "llama_guard" else ""
    return lambda more: tokens(text + more, add_special_tokens=False).input_ids


def read(model: Any, encode: Any, questions: Sequence[Question]) -> dict[str, Any]:
    """Of each question: ids up to the label; the labels' first tokens, and probabilities."""
    found: dict[str, Any] = {}
    written = ""
    for name, begin, labels in questions:
        written += begin
        ids = encode(written)
        with torch.no_grad():
            logits = model(torch.tensor([ids])).logits[0, -1].double()
        logs = torch.log_softmax(logits, -1).numpy()
        firsts = first_tokens(encode, written, ids, labels)
        sums = {label: np.exp(logs[first]).sum() for label, first in firsts.items()}
        likeliest = max(sums, key=sums.__getitem__)
        written += labels[likeliest][-1]
        found[name] = {"ids": ids, "firsts": firsts, "sums": sums}
    return found


def first_tokens(encode: Any, written: str, ids: list[int], labels: Labels) -> dict[str, list[int]]:
    """By each way of writing the labels, where it begins them with tokens of their own."""
    found: dict[str, set[int]] = {label: set() for label in labels}
    for words in zip(*labels.values(), strict=True):
        spelled = [encode(written + word) for word in words]
        if any(one[: len(ids)] != ids for one in spelled):
            continue
        if len({one[len(ids)] for one in spelled}) == len(labels):
            for label, one in zip(labels, spelled, strict=True):
                found[label].add(one[len(ids)])
    return {label: sorted(tokens) for label, tokens in found.items()}


def write_tokenizers() -> None:
    """As Qwen's and as LLaMA 2's, trained on the labels too, so that a token begins each."""
    words = [
        *qwen3guard.CATEGORIES,
        "Controversial",
        *"12345",
        "yes no safe unsafe good bad Yes No",
    ]
    corpus = [*tiny_tokenizers.CORPUS, *(f"Safe {word} Unsafe {word}\n" for word in words * 4)]
    for name, like in ((BYTES, tiny_tokenizers.qwen()), (PIECES, tiny_tokenizers.llama())):
        backend = like.backend_tokenizer
        content = json.loads(backend.to_str())
        first = [token["content"] for token in content["added_tokens"]]
        special = [*first, *(t for t in guard_cases.CONTROL if t not in first)]
        if name == PIECES:
            special[3:3] = [f"<0x{byte:02X}>" for byte in range(256)]
        trainer = trainers.BpeTrainer(
            vocab_size=900,
            special_tokens=special,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if name == BYTES else [],
            show_progress=False,
        )
        lines = corpus if name == BYTES else (word for line in corpus for word in line.split("\n"))
        backend.train_from_iterator(lines, trainer)
        content = json.loads(backend.to_str())
        content["added_tokens"] = [
            token for token in content["added_tokens"] if not token["content"].startswith("<0x")
        ]
        folder = guard_cases.FOLDER / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "tokenizer.json").write_text(json.dumps(content, ensure_ascii=False))
        told = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|im_end|>"}
        if name == PIECES:
            told |= {"bos_token": "<s>", "unk_token": "<unk>", "eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(told, indent=2) + "\n")


def main() -> int:
    torch.set_num_threads(1)
    check = compare.parse_check(__doc__ or "")
    golden = compare.Golden(guard_cases.FOLDER, check, tolerance=1e-5)
    if not (guard_cases.FOLDER / BYTES).exists():
        write_tokenizers()
    arrays: dict[str, np.ndarray] = {}
    for case in guard_cases.CASES:
        with tempfile.TemporaryDirectory() as place:
            folder = guard_cases.write_folder(case, Path(place))
            model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
            tokens = transformers.AutoTokenizer.from_pretrained(folder)
            row = guard_cases.row(case, folder)
            for number, said in enumerate(guard_cases.ROWS):
                if number == guard_cases.SPELLING:
                    continue
                for questions, given in asked(case, row):
                    encode = encoded(case, tokens, said, given, row)
                    for name, one in read(model, encode, questions).items():
                        key = f"{case}/{number}/{name}"
                        arrays[f"{key}/ids"] = np.asarray(one["ids"], np.int32)
                        arrays[f"{key}/sums"] = np.asarray(list(one["sums"].values()))
                        firsts = one["firsts"]
                        arrays[f"{key}/labels"] = np.asarray(list(firsts))
                        arrays[f"{key}/firsts"] = np.asarray(
                            [i for some in firsts.values() for i in some], np.int32
                        )
        print(case, flush=True)
    golden.arrays("golden.npz", arrays)
    return golden.finish()


if __name__ == "__main__":
    sys.exit(main())
