"""What an answer commits itself to; used to read known answers and multiple choice.

A text that mentions something need not give it as its answer: it may deny it, take it back, weigh
it against alternatives, or reach another conclusion at the end.
"""

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-")
_RAISED = re.compile(r"(?<=[\w)])[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻]+")
_FRACTION = re.compile(r"(?<=\d)(?=[¼-¾⅐-⅞])")
_PLAIN = str.maketrans({c: "'" for c in "‘’ʼ´`′"} | {c: '"' for c in "“”„«»"} | {
    "−": "-", "‐": "-", "‑": "-", "‒": "-", "–": "-", "—": " - ", "⁄": "/", "∕": "/", "÷": "/",
    "±": "\\pm ", "\u00a0": " ", "\u202f": " ", "\u2009": " ", "\u066b": ".", "\u066c": ",",
})  # fmt: skip

# A pair of numbers, where the comma is no decimal point: (3,4).
_PAIR = re.compile(r"(?:(?<=[\[(])|(?<=\\\{))(-?\d+),(-?(?!\d{3}[\])])\d+)(?=[\])]|\\\})")
_ROOT = re.compile(r"√\s?(?:\(([^()]*)\)|(\d+(?:\.\d+)?|[^\W\d_]))")  # √2, √(x + 1)
_POINT = re.compile(r"(?<![\w.)])\.(?=\d)")  # of .5
_PART = r"\w{1,20}|\w{0,20}\\sqrt\{\w{1,10}\}"  # of a fraction
# Of LaTeX, in this order: the marks of formulas, separators in numbers, words, signs, powers,
# mixed numbers, fractions.
_LATEX = (
    (re.compile(r"(?<!\\)\$([^$\n]{0,200}?\\[^$\n]{0,200}?)(?<!\\)\$"), r" \1 "),
    (re.compile(r"(?<=\d)\{,\}(?=\d)|(?<=\d)(?:,?\\!|\\,)(?=\d{3}(?!\d))"), ","),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|mbox)\s?\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\(?:left|right)(?![A-Za-z])|\\[,;:! ]"), " "),
    (re.compile(r"\^\s?\{?\s?\\circ(?![A-Za-z])\s?\}?"), "°"),
    (re.compile(r"\\(?:times|cdot)(?![A-Za-z])"), "×"),
    (re.compile(r"\^\s?\{([+-]?\d{1,3})\}"), r"^\1"),
    (re.compile(r"\\sqrt\s?(\d)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<=\d)\s?(?=\\[dt]?frac(?![A-Za-z]))"), " "),
    (re.compile(r"\\[dt]?frac\s?\{\s?(-?\d[\d.]*)\s?\}\s?\{\s?(\d[\d.]*)\s?\}"), r"\1/\2"),
    (re.compile(r"\\[dt]?frac\s?(\d)\s?(\d)(?!\d)"), r"\1/\2"),
    (re.compile(r"\\[dt]frac(?![A-Za-z])"), r"\\frac"),
    (re.compile(r"\\pi(?![A-Za-z])"), "π"),
    (re.compile(rf"\\frac\s?\{{({_PART})\}}\s?\{{({_PART})\}}"), r"\1/\2"),
)

# The conclusion follows these. `####` is GSM8K's, `\boxed` is used in mathematics.
_CUE = re.compile(
    r"\b(?:answer|choice|(?:correct|right|best|appropriate) (?:option|letter|one|statement))\b"
    r"(?: (?:here|to (?:this|the) question))?(?:(?:'s|\s+(?:is|was|would be|"
    r"will be|must be|should be))\b\s*:?|\**\s*[:=]|\s*\n)[\s*\"'(]*|####\s*|"
    r"\\boxed\{(?:\\text\{)?|答案(?:是|为|為|:)\s*|答えは|正解は|정답은?\s*:?",
    re.IGNORECASE,
)
# "The answer is simple. Paris.": no conclusion yet.
_FILLER = re.compile(
    r"\W*(?:(?:very |quite |pretty )?(?:simple|easy|clear|obvious|straightforward|known|below|here|"
    r"as follows|given|found))?\W*\Z",
    re.IGNORECASE,
)
_YES_NO = re.compile(r"\W*(?:yes|no)\W*\Z", re.IGNORECASE)
_ONLY_DENIES = re.compile(
    r"not\b(?!.*(?:\b(?:but|rather|instead)\b|[,;] it(?: is|'s)\b))", re.IGNORECASE
)
# These take back what came before.
_CORRECTION = re.compile(
    r"\b(?:no,? wait|wait,? no|wait,? actually|actually,? (?:no|it is|it's|that is wrong)|"
    r"correction|scratch that|on second thoughts?|let me correct|i (?:was|am) (?:wrong|mistaken)|"
    r"i meant)\b[\s,:;.-]*",
    re.IGNORECASE,
)
# The next question, which a model may go on to ask itself.
_NEXT = re.compile(
    r"\n\s*(?:#{2,}\s*)?(?:Next )?(?:Question|Instruction|Input|Q|Human|User)\b\s*\d*\s*:", re.I
)
# Also an opening brace, whose closing one ends no sentence.
_SENTENCE_END = re.compile(r"\{|(?<!\d)[.!?](?=\s|\Z)|[.!?](?=\s+[A-Z]|\s*\Z)|[。！？\n}]")

_LETTER = re.compile(r"\w")
# What others think or one might, if what is so follows: "You might think Paris, but it is Rome."
_CONCEDED = re.compile(
    r"\b(?:(?:many|most)\b[\w ]{0,24}\b(?:think|thought|say|said|believed?|assumed?)|"
    r"(?:some|people)(?: people)? (?:think|say|believe|assume)|"
    r"(?:you|one|people|they) (?:might|may|could|would) (?:\w+ )?(?:think|say|guess|assume|expect)|"
    r"i (?:first |initially |once )?thought|used to be|"
    r"(?:commonly|often|widely|mistakenly|wrongly) (?:thought|believed|assumed)(?: to be)?)\b"
    r"[^.;:!?\n]{0,40}\Z",
    re.IGNORECASE,
)
_IN_FACT = r"(?:but|however|actually|in fact|in reality)\b"
_CONCEDED_BEHIND = re.compile(
    r"[^.;:!?\n]{0,40}?(?: but\b|[,;.] (?:it(?:'s| is) )?" + _IN_FACT + r"|, now\b)"
    r"(?! (?:i|we)(?:'m| am| are| do| don't| can| can't|\Z))",
    re.IGNORECASE,
)
# The number of conclusions and corrections that are examined, from the last, and of characters.
_LAST, _READ = 8, 2000

# Words before a mention that deny it, unless one of the phrases below affirms it.
_DENIED = re.compile(
    r"(?:\b(?:not|never|neither|nor|no|cannot|without|except|excluding|unlike)\b|n't\b|"
    r"\b(?:instead of|rather than|other than|rul(?:e|es|ed|ing) out|(?:any|every)"
    r"(?:thing|one|body)? but|(?:all|any)(?: of (?:them|these|the above))? but(?! certain| sure)|"
    r"eliminat\w+|exclud\w+|(?<!no )(?<!n't )(?<!little )(?<!beyond )(?<!any )doubt (?:it|that|if|"
    r"whether))\b)(?P<between>[^.,;:!?\n]{0,48})\Z",
    re.IGNORECASE,
)
_AFFIRMED = re.compile(
    r"\s*(?:(?:an? |any |the )?(?:shadow of a |slightest )?doubt\b|"
    r"only|just|merely|simply|sure|certain|surprising\w*|question|wonder|(?:known|"
    r"called|so much) as|know\b|longer than)\b|.*\b(?:but|than)\b",
    re.IGNORECASE,
)
_DENIED_BEHIND = re.compile(
    r"\W{0,2}\?\W{0,2}\s(?:no|nope)\b(?! (?:doubt|question|problem))|"
    r"\W{0,3}(?:(?:is|are|was|were|would be|seems?|looks?) (?:clearly |obviously |definitely |all |"
    r"both )?(?:not (?:the |a )?(?:correct|right|true|answer|one|it\b|possible|an option|\W*\Z|$)|"
    r"wrong|incorrect|false|out\b|impossible|mistaken)|(?:isn't|aren't|wasn't) (?:the |a "
    r")?(?:correct|right|true|answer|one|it\b|possible)|(?:are|is)(?:n't| not)(?=\W*(?:\Z|"
    r"[.,;!]))|can(?:not| not|'t) be)",
    re.IGNORECASE,
)
_DENIED_CJK = re.compile(r"(?:不是|并非|並非|不在|不為|不为|没有|不会是|绝非)\s*\Z")
_DENIED_BEHIND_CJK = re.compile(
    r"(?:では|じゃ)(?:な|あり|ござ)|[이가은는]? ?아[니닙닌]|不是答案|不对|不對"
)


def plain(text: str) -> str:
    """Normalises characters: no full-width letters, superscripts as powers, one kind of quote, dash
    and digit, plain words and fractions for LaTeX's; keeps case and accents."""
    text = _RAISED.sub(lambda found: "^" + found[0].translate(_SUPERSCRIPTS), text)
    text = unicodedata.normalize("NFKC", _FRACTION.sub(" ", text).translate(_PLAIN))
    text = text.translate(_PLAIN)
    text = _ROOT.sub(lambda found: f"\\sqrt{{{found[1] or found[2]}}}", text)
    text = _POINT.sub("0.", _PAIR.sub(r"\1, \2", text))
    if "\\" in text or "{" in text:
        for pattern, spelled in _LATEX:
            text = pattern.sub(spelled, text)
    return "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)


def conclusion(text: str) -> tuple[str, bool]:
    """The part of a plain text that answers; and whether words like "the answer is" point to it.

    It excludes what the text takes back, and a next question that a model asks itself.
    """
    if following := _NEXT.search(text, 1):
        text = text[: following.start()]
    for taken_back in reversed(list(_CORRECTION.finditer(text))[-_LAST:]):
        if _LETTER.search(text, taken_back.end()):
            text = text[taken_back.end() :]
            break
    cues = list(_CUE.finditer(text))[-_LAST:]
    for number, cue in reversed(list(enumerate(cues))):
        behind = text[cue.end() : cue.end() + _READ]
        end = _sentence_end(behind)
        said = behind[: end.start()] if end else behind
        if _YES_NO.match(said):  # "The answer is yes. It is Paris." answers in two ways.
            return behind, True
        if not _FILLER.match(said):
            if number and _ONLY_DENIES.match(said):
                continue  # "Answer: B. The answer is not A, for ..."
            return said, True
        if end and _LETTER.search(behind, end.end()):
            return behind[end.end() :], True
    return text, False


def _sentence_end(text: str) -> re.Match[str] | None:
    """Where the first sentence ends, or the braces around it: the answer of `\\boxed{` may have
    braces of its own."""
    depth = 0
    for found in _SENTENCE_END.finditer(text):
        if found[0] == "{":
            depth += 1
        elif found[0] == "}" and depth:
            depth -= 1
        else:
            return found
    return None


def denied(text: str, start: int, end: int) -> bool:
    """Whether a plain text denies text[start:end], or only says that others think so."""
    return denied_before(text, start) or denied_behind(text, end) or conceded(text, start, end)


def conceded(text: str, start: int, end: int) -> bool:
    """Whether a plain text only concedes text[start:end] before it says what is so."""
    before, behind = text[max(0, start - 120) : start], text[end : end + 80]
    return bool(_CONCEDED.search(before) and _CONCEDED_BEHIND.match(behind))


def denied_before(text: str, start: int) -> bool:
    """Whether the words before a place deny it: "not Paris"."""
    before = text[max(0, start - 80) : start]
    if (found := _DENIED.search(before)) and not _AFFIRMED.match(found["between"]):
        return True
    return bool(_DENIED_CJK.search(before[-6:]))


def denied_behind(text: str, end: int) -> bool:
    """Whether the words after a place deny it: "Paris is wrong"."""
    behind = text[end : end + 40]
    return bool(_DENIED_BEHIND.match(behind) or _DENIED_BEHIND_CJK.match(behind))
