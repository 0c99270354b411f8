"""Rows as public datasets have them, with the messages that they hold."""

import json
from collections.abc import Callable
from pathlib import Path

from safety_jax.data.messages import Message
from safety_jax.data.sources import Source, open_source

ASK, BETTER, WORSE = (
    Message("user", "Which bird sings at night?"),
    Message("assistant", "The nightingale."),
    Message("assistant", "Birds."),
)
AGAIN, LAST = Message("user", "And by day?"), Message("assistant", "The blackbird.")
SYSTEM = Message("system", "You know birds.")
Q, A, B = ASK.content, BETTER.content, WORSE.content


def turns(*messages):
    return [{"role": message.role, "content": message.content} for message in messages]


def parts(text):
    return [{"type": "text", "text": text[:5]}, {"type": "text", "text": text[5:]}]


def opener(folder: Path) -> Callable[..., Source]:
    """A function that writes rows and opens them."""

    def opened(*found, options=""):
        path = folder / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in found))
        return open_source(f"{path}{options}")

    return opened


ULTRA_FEEDBACK = {
    "prompt": Q, "prompt_id": "7", "chosen": turns(ASK, BETTER), "rejected": turns(ASK, WORSE),
    "messages": turns(ASK, BETTER), "score_chosen": 8.0, "score_rejected": 2.0,
}  # fmt: skip
ORCA_DPO = {"system": "You know birds.", "question": Q, "chosen": A, "rejected": B}
OPENAI = {
    "input": {"messages": turns(SYSTEM, ASK), "tools": [], "parallel_tool_calls": True},
    "preferred_output": turns(BETTER), "non_preferred_output": turns(WORSE),
}  # fmt: skip
HELP_STEER = {
    "domain": "general", "language": "english", "context": turns(ASK, BETTER, AGAIN),
    "response1": LAST.content, "response2": B, "overall_preference": -2,
    "individual_preference": [{"score": -2, "reasoning": "more exact"}],
}  # fmt: skip
SHP = {
    "post_id": "a", "domain": "askscience_test", "upvote_ratio": 0.9, "history": Q,
    "score_A": 40, "score_B": 3, "human_ref_A": A, "human_ref_B": B, "labels": 1,
    "seconds_difference": 60.0, "score_ratio": 13.3,
}  # fmt: skip
WEBGPT = {
    "question": {"dataset": "eli5", "id": "1", "full_text": Q},
    "quotes_0": {"title": [], "extract": []}, "answer_0": B, "tokens_0": {}, "score_0": -0.5,
    "quotes_1": {"title": [], "extract": []}, "answer_1": A, "tokens_1": {}, "score_1": 0.5,
}  # fmt: skip
ARENA = {
    "question_id": "1", "model_a": "m", "model_b": "n", "winner": "model_b", "judge": "person",
    "conversation_a": turns(ASK, WORSE), "conversation_b": turns(ASK, BETTER), "turn": 1,
    "anony": True, "language": "English", "openai_moderation": "{}",
}  # fmt: skip
NECTAR = {
    "prompt": f"\n\nHuman: {Q}\n\nAssistant: ",
    "answers": [
        {"answer": "Some of them do.", "model": "m", "rank": 2.0},
        {"answer": B, "model": "n", "rank": 7.0},
        {"answer": A, "model": "o", "rank": 1.0},
    ],
    "turns": 1, "num_responses": 3, "source": ["lmsys-chat-1m"], "good_natured": True,
}  # fmt: skip
ALPACA_PAIR = {"instruction": Q, "input": "Owl, lark.", "chosen": A, "rejected": B}
SHAREGPT_PAIR = {
    "conversations": [{"from": "human", "value": Q}],
    "chosen": {"from": "gpt", "value": A}, "rejected": {"from": "gpt", "value": B},
}  # fmt: skip
OPEN_ORCA = {"id": "1", "system_prompt": "You know birds.", "question": Q, "response": A}
SLIM_ORCA = {
    "conversations": [
        {"from": "system", "value": "You know birds.", "weight": None},
        {"from": "human", "value": Q, "weight": 0.0},
        {"from": "gpt", "value": A, "weight": 1.0},
    ]
}
TOXIC_CHAT = {
    "conv_id": "a", "user_input": Q, "model_output": A, "human_annotation": True, "toxicity": 0,
    "jailbreaking": 0, "openai_moderation": "[]",
}  # fmt: skip
LMSYS = {
    "conversation_id": "a", "model": "m", "conversation": turns(ASK, BETTER, AGAIN, LAST),
    "turn": 2, "language": "English", "openai_moderation": [{"flagged": False}] * 4,
    "redacted": False,
}  # fmt: skip
WILD = {"vanilla": "Which?", "adversarial": Q, "completion": A, "data_type": "adversarial_benign"}
OASST_TREE = {
    "message_tree_id": "1", "tree_state": "ready_for_export",
    "prompt": {
        "message_id": "1", "text": Q, "role": "prompter",
        "replies": [
            {"text": B, "role": "assistant", "rank": 1, "replies": []},
            {"text": A, "role": "assistant", "rank": 0, "replies": [
                {"text": AGAIN.content, "role": "prompter", "rank": None, "replies": []}]},
            {"text": "Bad.", "role": "assistant", "rank": None, "deleted": True, "replies": []},
        ],
    },
}  # fmt: skip
