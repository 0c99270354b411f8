"""Whatever a file holds, reading it gives plain rows or takes one line: seeded random damage.

`make test` tries a few examples; SAFETY_JAX_FUZZ_EXAMPLES says how many of each kind, as .ci/run
does for about a minute.
"""

import json
import math
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from safety_jax.base.errors import UserError
from safety_jax.data import parsing, records
from safety_jax.data.formats import verdicts
from safety_jax.data.formats.catalogue import FORMATS, PROMPTS, RESPONSES
from safety_jax.data.sources import Source, open_source
from tests.data_files import write

EXAMPLES = int(os.environ.get("SAFETY_JAX_FUZZ_EXAMPLES", "3"))
TEXTS = [
    *(".json", ".jsonl", ".csv", ".tsv", ".txt", ".xlsx"),
    *(".jsonl.gz", ".json.xz", ".csv.bz2", ".tsv.zst"),
]
TABLES = [".parquet", ".arrow"]


def seeded(examples):
    return settings(
        max_examples=max(1, examples),
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


# ---------------------------------------------------------------------------- files

TOKENS = [
    *(
        b"\0",
        b"\xff",
        b"\xff\xfe",
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        b"PK\x03\x04",
        b"PAR1",
        b"ARROW1",
    ),
    *(b'"', b"\\ud800", b"\n", b"\r", b"\\", b",", b"\t", b"}", b"]", b"[" * 99, b"{" * 99),
    *(b"9" * 5000, b"NaN", b"-Infinity", b"1e999", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff"),
    b"\x00\x00\x00\x00",
]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["flip", "insert", "delete", "repeat", "cut"]),
        st.floats(0, 1),
        st.integers(0, 255),
        st.sampled_from(TOKENS),
    ),
    min_size=1,
    max_size=4,
)


def damaged(content: bytes, edits) -> bytes:
    for kind, place, number, token in edits:
        at = min(int(place * len(content)), len(content) - 1) if content else 0
        before, behind = content[:at], content[at:]
        if kind == "flip" and behind:
            content = before + bytes([behind[0] ^ (number or 1)]) + behind[1:]
        elif kind == "insert":
            content = before + token + behind
        elif kind == "delete":
            content = before + behind[number:]
        elif kind == "repeat":
            content = before + behind[:number] * 2 + behind[number:]
        elif kind == "cut":
            content = before
    return content


def is_plain(value) -> bool:
    if isinstance(value, dict):
        return all(isinstance(k, str) and is_plain(k) and is_plain(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(is_plain, value))
    if isinstance(value, str):
        return value.encode("utf-8") is not None
    return value is None or isinstance(value, int) or math.isfinite(value)


def read(path, content, options=""):
    path.write_bytes(content)
    try:
        source = open_source(f"{path}{options}")
    except UserError as error:
        assert "\n" not in str(error) and str(error).isprintable()
        return
    assert source.rows and len(source.rows) == len(source.where)
    assert all(isinstance(row, dict) and is_plain(row) for row in source.rows)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good file of each ending: its path and content."""
    folder = tmp_path_factory.mktemp("whole")
    endings = [end for end in (*TEXTS, *TABLES) if end != ".txt"]
    return {end: write(folder / f"a{end}").read_bytes() for end in endings}


@pytest.mark.parametrize("ending", TEXTS)
def test_damaged_files(ending, whole, tmp_path):
    path = tmp_path / f"a{ending}"
    content = whole.get(ending, b"Name a bird.\nName a tree.\n")

    @seeded(EXAMPLES)
    @given(EDITS, st.sampled_from(["", "?broken_text=replace"]))
    def run(edits, options):
        read(path, damaged(content, edits), options)

    run()


@pytest.mark.parametrize("ending", TABLES)
def test_damaged_tables(ending, whole, tmp_path):
    """Each takes a process of its own, hence fewer."""
    path = tmp_path / f"a{ending}"

    @seeded(EXAMPLES // 6)
    @given(EDITS)
    def run(edits):
        read(path, damaged(whole[ending], edits))

    run()


# ---------------------------------------------------------------------------- rows

COLUMNS = sorted(
    {column for one in (*FORMATS, *PROMPTS, *RESPONSES) for column in one.columns}
    | set(parsing.BESIDE)
    | {"message_id", "parent_id", "role", "text"}
)
WORDS = st.sampled_from(
    ["", " ", "a", "Hello?", "\n\nHuman: a\n\nAssistant: b", "### Human: a### Assistant: b",
     "<|im_start|>user\na<|im_end|>", "user", "assistant", "system", "true", "no", "unsafe"]
)  # fmt: skip
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 2), st.floats(allow_nan=False, allow_infinity=False),
    st.integers(10**20, 10**299), WORDS, st.text(max_size=4),
)  # fmt: skip
FIELDS = st.sampled_from(
    ["role", "content", "from", "value", "weight", "type", "text", "messages", "flagged",
     "tool_calls", "refusal", "replies", "rank", "deleted", "reasoning_content", "0"]
)  # fmt: skip
TURN = st.fixed_dictionaries(
    {
        "role": st.sampled_from(["user", "assistant", "system", "developer", "tool"]),
        "content": WORDS,
    },
    optional={"weight": SCALARS, "reasoning_content": SCALARS},
)
VALUES = st.one_of(
    SCALARS,
    st.lists(TURN, max_size=4),
    st.recursive(
        SCALARS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=4),
        max_leaves=6,
    ),
)


@st.composite
def rows_of_formats(draw):
    """Rows with the columns of some format and others, whatever they hold."""
    known = draw(st.sampled_from((*FORMATS, *PROMPTS, *RESPONSES, *verdicts.LABELS)))
    others = st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=3)
    needed = st.fixed_dictionaries({column: VALUES for column in known.columns})
    return [{**draw(others), **draw(needed)} for _ in range(draw(st.integers(1, 3)))]


READERS = (
    records.read_records,
    records.read_pairs,
    records.read_prompts,
    records.read_responses,
    records.read_labelled,
    lambda source: records.read_rated(source, verdicts.RATINGS),
    lambda source: records.read_rated(source, verdicts.LABELS),
)


@seeded(EXAMPLES * 10)
@given(rows_of_formats(), st.booleans())
def test_any_values_in_any_columns(rows, skip):
    rows = json.loads(json.dumps(rows))  # what a file can hold
    where = [f"a.jsonl line {i}" for i in range(1, len(rows) + 1)]
    for reader in READERS:
        source = Source("a.jsonl", "a", rows, where, None, None, None, {}, skip)
        try:
            found = reader(source)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        assert found and all(one.where in where for one in found)
        for one in found:
            messages = one.messages if isinstance(one, records.Record) else one.prompt
            assert messages and all(isinstance(message.content, str) for message in messages)
