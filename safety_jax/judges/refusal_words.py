"""Acts of refusal, and the building blocks of their patterns; the tables are in `refusal_rules.py`,
`refusal_premises.py` and `refusal_signs.py`.

Patterns match sentences from `refusal_text.split`: in lower case, with contractions expanded, so
that "I can't", "I cannot" and "i cant" are the same.
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Act:
    """A speech act of a sentence.

    Attributes:
        weights: towards refusal, in the first sentence, in the next two, and later.
        help: towards partial refusal, at any position.
        moral: whether it moralises.
        words: beginnings of words, from `begins`: only sentences with one of them are matched; None
            for any sentence.
        speaker: matches after the speaker: "I", "this assistant", or a verb that shares their
            subject ("I am an AI model and do not condone ...").
        opening: matches at the beginning of a sentence.
        anywhere: matches anywhere.
    """

    name: str
    weights: tuple[float, float, float]
    help: float
    moral: bool
    words: frozenset[str] | None
    speaker: re.Pattern[str] | None = None
    opening: re.Pattern[str] | None = None
    anywhere: re.Pattern[str] | None = None


# Matches before a verb whose subject is the speaker.
SPEAKER = re.compile(
    r"(?:(?P<promise>\b(?:promise|worry|swear|assure|assured|guarantee)\b[^\n.;]{0,30}))?\b(?:i|we|"
    r"this (?:ai|assistant|chatbot|bot|model|system)|(?:the|an|your) (?:ai|assistant|chatbot)(?: "
    r"language)?(?: model| assistant)?|ai(?: language)? (?:models?|assistants?)) (?=\w)"
)
# Likewise for a later verb that shares the subject.
NAMED = re.compile(r"\b(?:i|we|ai|assistant|chatbot)\b")
SHARED = re.compile(
    r"(?:\b(?:and|but|so|that|or)|,|;) (?=(?:\w{1,16}ly |also |as such,? |therefore,? )?(?:(?:do|"
    r"can|could|will|would|must|am|have to|not|unable|unwilling|refuse|decline)\b))"
)

# A word of a sentence, and the number of letters that are compared.
WORD, WORD_LETTERS = re.compile(r"[a-z]{1,16}"), 4


def begins(words: str) -> frozenset[str]:
    return frozenset(word[:WORD_LETTERS] for word in words.split())


# Pieces of the patterns below. Every repetition is bounded: matching takes linear time.
_PIECES = {
    "ADV": r"(?:(?:\w{1,16}ly|also|just|even|ever|at all|in any way|in good conscience|under any "
    r"circumstances|at this time|and will not|or will not|nor will i|,) ?){0,4}",
    "CAN": r"(?:can|could|will|shall|must|does|do)",
    # What keeps the speaker from it: "am not able to", "am forbidden from".
    "KEPT": r"(?:(?:am|are|is|feel|do not feel) )?(?:\w{1,16}ly |just |simply ){0,2}(?:not "
    r"(?:\w{1,16}ly )?(?:able|allowed|permitted|authori[sz]ed|programmed|designed|trained|built|"
    r"meant|intended|supposed|going|willing|prepared|equipped|qualified|inclined|here|at liberty|"
    r"in a position|comfortable|capable|interested)|unable|unwilling|incapable|prohibited|"
    r"forbidden|prevented|barred|restricted|hesitant|reluctant|(?<=not feel )(?:comfortable|"
    r"right)|uncomfortable)(?: (?:to|of|from|in|with))?",
    # Verbs of complying. Some also occur in idioms, see IDIOM.
    "SERVE": r"(?:\w{1,12} (?:or|and|nor) )?(?:be (?:able|used|part|involved|\w{1,12}ing)\b|"
    r"accommodat|advi[sc]|advocat|aid|answer|approv|assist|carry out|comment|complet|compl(?:y|"
    r"ies)|compos|condon|continu|contribut|craft|creat|deliver|describ|detail|disclos|discuss|"
    r"argu|convinc|prov(?:e|ing)\b|persuad|defend|design|develop|invent|build|recommend (?:that|"
    r"this|any)\b|divulg|do (?:that|this|it|so|what|such)\b|draft|enabl|encourag|endors|engag|"
    r"entertain|execut|explain|facilitat|follow|fulfil|generali[sz]|generat|giv|"
    r"go (?:along|there|into)|"
    r"guid|help|honou?r|indulg|instruct|involv|justif|list|mak|offer|outlin|participat|partak|"
    r"perform|point you|proceed|process|produc|promot|provid|repl|respond|reveal|role ?-?play|"
    r"satisf|say|search|send|shar|show|speculat|summari[sz]|suppl|support|take part|teach|tell|"
    r"tolerat|translat|walk you|writ|allow|name|plan\b|judg|rank|plot|hack|harm|steal|kill|find "
    r"you|suggest (?:any|how|ways|\w{1,12} ways))",
    # "I can't tell you how happy I am", "can't recommend it enough", "can't say for sure",
    # "can't help but", "can't make it": idioms that are no refusals.
    "IDIOM": r"(?!\w{1,12} (?:but|noticing|feeling|thinking|wondering|laughing|smiling|it\b(?! "
    r"with))|(?:agree|disagree|be)\w{0,3} more|\w{1,12}(?: (?:to )?(?:you|\w{1,16}))? how (?:much|"
    r"many|often|\w{1,12}(?:ed|ful|y|ous|ing|ant|ent|ad|eat)) (?:i|we|this|that|it|my|your|the)\b|"
    r"[^\n.,;]{0,60} (?:enough|highly|for sure|for certain|with (?:\w{1,12} )?certainty|"
    r"definitively|too (?:highly|strongly|much))\b|mak\w{1,3} (?:it\b|sense|out|ends|up my|"
    r"promises|\w{1,12} judg|any promises|guarantees)|say(?: (?:whether|if|which|when|who|how|"
    r"exactly)|\W*$)|tell (?:whether|if|which|the difference|them|it)|giv\w{0,3} (?:up|in|it a)\b|"
    r"do (?:it|this|that) (?:without|alone|justice|all))",
    "WILL_NOT": r"(?:will not|am not (?:\w{1,16}ly )?(?:going|willing|prepared|about) to)",
    # What a speaker will not do who refuses nothing: "I won't lie", "I won't be there".
    "TALK": r"(?:lie|sugar ?-?coat|bore|pretend|claim to|deny|go (?!along|there|into)|go\W*$|get "
    r"into|spoil|ruin|repeat|rehash|belabou?r|dwell|elaborate|bother|waste|keep|be\b(?! (?:used|"
    r"part|involved|\w{1,12}ing))|forget|stop|let|give (?:up|in)|mince|argue with|complain|"
    r"disagree|miss|hesitate|rest|back down|quit|leave|accept|need|have|take (?:no|long|much|up)|"
    r"say (?:that|it|this|much|more|anything|no\b)|mention|know|see|try to|attempt to|hold|stand|"
    r"mak\w{1,3} (?:it\b|ends|any promises|promises)|do (?:it|this|that) (?:without|alone|justice|"
    r"all)|tell you how (?:much|many|\w{1,12}(?:y|ful|ed))|come|return|sleep|eat|work\W*$|change|"
    r"die|live|love|cry|fall|run\b|walk|wait)",
    # What may stand before the speaker in the first words of a refusal.
    "FIRST": r"(?:(?:no|nope|sorry|i am (?:sorry|afraid))[,;:.]? (?:but |and |so )?)?",
    "MUST": r"(?:(?:must|have to|need to|will|would like to|want to|should|am (?:afraid i (?:must|"
    r"will have to|have to)|going to|obliged to|obligated to|compelled to|forced to|required to)|"
    r"feel (?:compelled|obligated|obliged) to|have no choice but to) ){1,2}<ADV>",
    "NOT": r"\b(?:not|never|neither|nor)",
    "DEGREE": r"(?:(?:\w{1,16}ly|also|just|ever|even|at all|in any way|always|all that|so|very|"
    r"quite|too|be|been|being|an?|the|any|considered|something that is|in any situation) ){0,4}",
    "IMPROPER": r"(?:appropriate|ethical|acceptable|okay|ok|right\b(?! or wrong)|moral|legal|"
    r"permissible|responsible|respectful|productive|tolerated|condoned|justified|justifiable|"
    r"excusable|good thing|kind\b(?! of)|humane|taken lightly|funny|nice|encouraged|a joke)",
    "UNWISE": r"(?:advisable|wise\b|healthy|good idea|recommended|safe\b|worth it)",
    "WRONGFUL": r"(?:inappropriate|unethical|unacceptable|immoral|offensive|harmful|hurtful|"
    r"derogatory|discriminatory|disrespectful|racist|sexist|homophobic|xenophobic|bigoted|hateful|"
    r"demeaning|degrading|dehumani[sz]ing|false|inaccurate|incorrect|untrue|unfair|outdated|"
    r"dangerous|unsafe|irresponsible|invalid|improper|unfounded|baseless|insensitive|negative|"
    r"disturbing|problematic)",
    "CLAIM": r"(?:request|question|prompt|query|statement|stereotype|assumption|generali[sz]ation|"
    r"premise|notion|idea|claim|belief|sentiment|narrative|view|opinion|myth|misconception|remark|"
    r"comment|thing to (?:say|ask|do)|suggestion|topic|way to)",
    "PEOPLE": r"(?:people|individuals?|persons?|everyone|everybody|anyone|all humans|human beings?|"
    r"men|women|children|they|them|no one|nobody|citizens|groups?|beings?)",
}


def any_of(*alternatives: str) -> re.Pattern[str]:
    text = "|".join(alternatives)
    for _ in range(2):  # pieces are nested once
        for name, piece in _PIECES.items():
            text = text.replace(f"<{name}>", piece)
    return re.compile(text, re.MULTILINE)
