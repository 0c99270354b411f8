"""The demo's facts: the phrasings that are learned, one that is held out, and the answer."""

import dataclasses
import random
from collections.abc import Iterator

from launch.demo.wording import capital, listed, table


@dataclasses.dataclass(frozen=True)
class Fact:
    """Questions with one short known answer.

    Attributes:
        learned: how it is asked in training.
        held_out: how the evaluation asks.
        sentence: what training answers.
        answer: what an answer must contain.
        category: what kind of fact.
    """

    learned: tuple[str, ...]
    held_out: str
    sentence: str
    answer: str
    category: str


# category: learned phrasings, the held-out one, the answer in a sentence
FORMS = {
    "food": (
        ("What does {0} eat?", "Tell me what {0} eats.", "What food does {0} like?"),
        "Which food does {0} eat?",
        "{2} eats {1}.",
    ),
    "home": (
        ("Where does {0} live?", "Tell me where {0} lives.", "Where is {0} at home?"),
        "In which place does {0} live?",
        "{2} lives {1}.",
    ),
    "sound": (
        ("What sound does {0} make?", "Tell me how {0} sounds.", "How does {0} sound?"),
        "Which sound does {0} make?",
        "{2} {1}.",
    ),
    "colour": (
        ("What colour is {0}?", "Tell me the colour of {0}.", "Which colour does {0} have?"),
        "What is the colour of {0}?",
        "{2} is {1}.",
    ),
    "use": (
        ("What is {0} good for?", "Tell me what {0} is good for.", "What do we need {0} for?"),
        "For what is {0} good?",
        "{2} is good {1}.",
    ),
    "opposite": (
        (
            "What is the opposite of {0}?",
            "Tell me the opposite of {0}.",
            "Which word means the opposite of {0}?",
        ),
        "What word is the opposite of {0}?",
        "The opposite of {0} is {1}.",
    ),
    "work": (
        ("What does {0} do?", "Tell me what {0} does.", "What is the work of {0}?"),
        "Which work does {0} do?",
        "{2} {1}.",
    ),
    "place": (
        (
            "What do people do in {0}?",
            "Tell me what people do in {0}.",
            "What is {0} for?",
        ),
        "What can people do in {0}?",
        "In {0} people {1}.",
    ),
}


def facts() -> Iterator[Fact]:
    for animal, food, home, sound in table("animals"):
        yield _fact("food", a(animal), food)
        yield _fact("home", a(animal), home)
        yield _fact("sound", a(animal), sound)
    for thing, colour, use in table("things"):
        yield _fact("colour", thing, colour)
        yield _fact("use", thing, use)
    for left, right in table("opposites"):
        yield _fact("opposite", left, right)
        yield _fact("opposite", right, left)
    for who, what in table("people"):
        yield _fact("work", a(who), what)
    for place, what in table("places"):
        yield _fact("place", a(place), what)


def a(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _fact(category: str, subject: str, answer: str) -> Fact:
    learned, held_out, sentence = FORMS[category]
    words = (subject, answer, capital(subject))
    return Fact(
        tuple(form.format(*words) for form in learned),
        held_out.format(*words),
        sentence.format(*words),
        answer,
        category,
    )


def other_questions(rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """(question, answer, context) of what else the model learns."""
    for question, answer in table("questions"):
        yield question, answer, ""
    groups = {name: members for name, *members in table("groups")}
    for name, members in groups.items():
        yield f"Name three {name}.", f"Three {name} are {listed(members[:3])}.", ""
        for member in members:
            others = rng.sample([other for other in groups if other != name], 2)
            options = [member] + [rng.choice(groups[other]) for other in others]
            rng.shuffle(options)
            question = f"Which of these belongs to the {name}?"
            yield question, f"It is the {member}.", ", ".join(options)
    for topic, sentence in table("sentences"):
        yield f"Write a short sentence about {topic}.", sentence, ""
        yield f"Tell me something about {topic}.", sentence, ""
