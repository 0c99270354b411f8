"""Requests that look the same to a reader but have other tokens.

The perturbations are from Boucher et al., "Bad Characters" (arXiv 2106.09898). Letters are drawn
independently, from the seed and the request.
"""

import random

ZERO_WIDTH = "\u200b\u200c\u200d\u2060"  # space, non-joiner, joiner, word joiner
SHARE = 0.3  # of the places that could be changed

# Latin letters, and the Cyrillic ones that look the same.
HOMOGLYPHS = dict(
    zip(
        "aceijopsxyABCEHIKMOPTX",
        "\u0430\u0441\u0435\u0456\u0458\u043e\u0440\u0455\u0445\u0443"
        "\u0410\u0412\u0421\u0415\u041d\u0406\u041a\u041c\u041e\u0420\u0422\u0425",
        strict=True,
    )
)


def zero_width(request: str, seed: int) -> str:
    """Characters without width between letters."""
    draw = random.Random(f"zero_width {seed} {request}")
    found = []
    for letter, after in zip(request, [*request[1:], " "], strict=True):
        found.append(letter)
        if letter.isalnum() and after.isalnum() and draw.random() < SHARE:
            found.append(ZERO_WIDTH[int(draw.random() * len(ZERO_WIDTH))])
    return "".join(found)


def homoglyphs(request: str, seed: int) -> str:
    """Cyrillic letters for Latin ones."""
    draw = random.Random(f"homoglyphs {seed} {request}")
    return "".join(
        HOMOGLYPHS[letter] if letter in HOMOGLYPHS and draw.random() < SHARE else letter
        for letter in request
    )
