"""Functions for notebooks: load a model, generate and judge answers, adapt it, compare pairs.

    import safety_jax as sj

    model = sj.load("meta-llama/Llama-3.2-1B-Instruct")
    answers = sj.generate(model, questions, max_new_tokens=128)
    verdicts = sj.judge(questions, answers, ["refusal", "runs/harm/export"])
    found = sj.dpo(sj.lora(model, rank=8), pairs)

Each function does the same as a stage, but for data in memory. For more than a few hundred rows use
the stage, which works in blocks, saves its results, and records how they were made. Names are
imported on first use, so `import safety_jax` alone costs nothing. Signatures replace configs here:
their defaults are the only numbers that no config sets.

Prompts are texts or lists of messages, `{"role": ..., "content": ...}`. Rows are mappings with the
columns of any format in `data/formats/`. A template of `data/prompts.py` turns text into tokens: by
default the tokenizer's chat template, or "plain" if it has none.
"""
