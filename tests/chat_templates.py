"""Chat templates of each kind that model families have, as short as they can be.

ends      how an answer ends: by a control token, by one and a newline, by two, by words
thoughts  in what has been answered, and in what a model is asked with
"""

# LLaMA 3: headers, texts without blanks at their ends.
HEADERS = (
    "{{ bos_token }}{% for m in messages %}<|start|>{{ m.role }}<|stop|>\n\n"
    "{{ m.content | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}"
)
# Gemma: another name for the assistant, a newline behind the end, no system message.
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system message') }}{% endif %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end>\n"
    "{% endfor %}{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Gemma 3: what the system says stands before the first question, in its turn.
FIRST_TURN = (
    "{{ bos_token }}{% set before = '' %}{% set said = messages %}"
    "{% if messages[0].role == 'system' %}{% set before = messages[0].content + '\n\n' %}"
    "{% set said = messages[1:] %}{% endif %}{% for m in said %}"
    "<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ before if loop.first else '' }}{{ m.content | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<turn>model\n{% endif %}"
)
# Phi-4: three marks and no line breaks.
THREE_MARKS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}<|sep|>{{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant<|sep|>{% endif %}"
)
# OLMo 2: questions end with a line, answers with the end of the text, and a line if more is said.
LINES = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    "{% if m.role != 'assistant' or not loop.last %}\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# Granite 3: a system message of its own where none is given, with the day.
OWN_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|role|>system<|of|>You are a model. Today is "
    "{{ strftime_now('%d %B %Y') }}.<|endoftext|>\n{% endif %}"
    "{% for m in messages %}<|role|>{{ m.role }}<|of|>{{ m.content }}<|endoftext|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|role|>assistant<|of|>{% endif %}"
)
# Phi-3: behind the last answer, its end and then that of the text.
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
# Qwen 3: a thought in the last answer alone, be it empty.
THINKS = (
    "{% set last = namespace(user=0) %}{% for m in messages %}"
    "{% if m.role == 'user' %}{% set last.user = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = m.content %}{% set thought = '' %}"
    "{% if '</think>' in text %}"
    "{% set thought = text.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
    "{% set text = text.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > last.user %}"
    "<think>\n{{ thought }}\n</think>\n\n{% endif %}{{ text }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
# DeepSeek-R1's distilled models: asked with an open thought, which answers have not.
OPENS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}<｜A｜>{{ m.content.split('</think>')[-1] }}{{ eos_token }}"
    "{% else %}<｜U｜>{{ m.content }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<｜A｜><think>\n{% endif %}"
)
# Mistral 0.3: the system message stands with the last question, if that comes last.
LATE_SYSTEM = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'user' %}[INST] {% if loop.last and messages[0].role == 'system' %}"
    "{{ messages[0].content + '\n\n' }}{% endif %}{{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
# gpt-oss: thoughts in a field and a channel of their own, and another end for the last answer.
CHANNELS = (
    "{% for m in messages %}<|begin|>{{ m.role }}{% if m.role == 'assistant' %}"
    "{% if loop.last and m.thinking %}<|channel|>analysis<|message|>{{ m.thinking }}<|end|>"
    "<|begin|>assistant{% endif %}<|channel|>final{% endif %}<|message|>{{ m.content }}"
    "{{ '<|return|>' if loop.last and m.role == 'assistant' else '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant{% endif %}"
)
# Command R7B: an end of the answer, and behind it that of the turn.
TWO_ENDS = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}"
    "{% if m.role == 'assistant' %}<|answered|>{% endif %}<|over|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
# Templates that mark what is generated.
MARKED = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
    "{% generation %}{{ m.content }}<|im_end|>{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Words alone.
WORDS = (
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)
# Everything louder: letters are not as they were said.
LOUD = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content | upper | replace('\n\n', '\n') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Mistral Small: the day is written.
DATED = (
    "{{ bos_token }}[SYS]Today is {{ strftime_now('%d %B %Y') }}.[/SYS]{% for m in messages %}"
    "{{ '[INST]' + m.content + '[/INST]' if m.role == 'user' else m.content + eos_token }}"
    "{% endfor %}"
)
TOKENS = {
    HEADERS: ("<|start|>", "<|stop|>", "<|eot|>"),
    GEMMA: ("<turn>", "<end>"),
    FIRST_TURN: ("<turn>", "<end>"),
    THREE_MARKS: ("<|sep|>",),
    LINES: ("<|system|>", "<|user|>", "<|assistant|>"),
    OWN_SYSTEM: ("<|role|>", "<|of|>"),
    PHI: ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    OPENS: ("<｜U｜>", "<｜A｜>"),
    LATE_SYSTEM: ("[INST]", "[/INST]"),
    CHANNELS: ("<|begin|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>"),
    TWO_ENDS: ("<|user|>", "<|assistant|>", "<|answered|>", "<|over|>"),
    DATED: ("[SYS]", "[/SYS]", "[INST]", "[/INST]"),
}
