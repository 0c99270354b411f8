"""Rows, and files of every kind that hold them."""

import bz2
import csv
import gzip
import json
import lzma

import openpyxl
import pyarrow as pa
import pyarrow.parquet

ROWS = [
    {"instruction": "Name a colour.", "output": "Red.\nOr blue."},
    {"instruction": 'Say "hello", ü', "output": "hello"},
    {"instruction": "Third", "output": "3"},
]


def write(path, rows=ROWS):
    """Writes rows in the form that the path's ending asks for."""
    name = path.name
    ending = name.rpartition(".")[2]
    compress = {
        "gz": gzip.compress,
        "xz": lzma.compress,
        "bz2": bz2.compress,
        "zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }.get(ending, bytes)
    if ".jsonl" in name or ".ndjson" in name:
        path.write_bytes(compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    elif ".json" in name:
        path.write_bytes(compress(json.dumps(rows, ensure_ascii=False, indent=1).encode()))
    elif name.endswith((".csv", ".tsv")):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0], delimiter=",\t"[name.endswith(".tsv")])
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".xlsx"):
        book = openpyxl.Workbook()
        for row in (list(rows[0]), *(list(row.values()) for row in rows)):
            book.active.append(row)
        book.save(path)
    elif name.endswith(".parquet"):
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    else:
        make = pa.ipc.new_stream if "stream" in name else pa.ipc.new_file
        table = pa.Table.from_pylist(rows)
        with make(path, table.schema) as writer:
            writer.write_table(table)
    return path
