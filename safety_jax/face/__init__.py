"""The face for notebooks: load a model, let it answer, judge the answers, adapt it, compare pairs.

    import safety_jax as sj

    model = sj.load("meta-llama/Llama-3.2-1B-Instruct")
    answers = sj.generate(model, questions, max_new_tokens=128)
    verdicts = sj.judge(questions, answers, ["refusal", "runs/harm/export"])
    found = sj.dpo(sj.lora(model, rank=8), pairs)

Each function is what a stage does, on what lies in memory; for more than some hundred rows use the
stage, which works in blocks, keeps what it has done and writes down how. Names are imported on
first use: `import safety_jax` alone costs nothing. What a config would say, a signature says here:
its defaults are the only numbers that no config sets.

Prompts are texts or lists of messages, `{"role": ..., "content": ...}`; rows are mappings with the
columns of any format in `data/formats/`. Text becomes tokens by a template of `data/prompts.py`:
by default the tokenizer's chat template, or "plain" where it has none.
"""
