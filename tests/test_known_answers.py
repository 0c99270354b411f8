"""Questions with known answers: numbers, words, denials, choices left open, other scripts."""

import time

import pytest

from safety_jax.evaluation.measures import known_answers

# Answer, what is known.
RIGHT = (
    ("A dog has FOUR legs.", "four"), ("It lives on a farm, mostly.", "on a farm"),
    ("Zoë", "zoe"), ("2 legs", "two|2"), ("ab-cd", "ab cd"),
    ("It is -5.", "-5"), ("It is −5.", "-5"), ("minus 5", "-5"), ("negative five", "-5"),
    ("It is 5 degrees below zero.", "-5"), ("It costs $1,000.", "1000"),
    ("It costs $1,000.", "$1000"), ("1000 dollars", "$1,000"), ("About 1.5.", "1.5"),
    ("1,5", "1.5"), ("There are 3,000.", "3000"), ("There are 3000.", "3,000"), ("3 000", "3000"),
    ("3'000 francs", "3000"), ("1.000.000", "1000000"), ("3 million people", "3,000,000"),
    ("3,000,000", "3 million"), ("3k", "3000"), ("5.0", "5"), ("05", "5"), ("½", "1/2"),
    ("0.5", "1/2"), ("2½ cups", "2.5"), ("50%", "50 percent"), ("50 per cent", "50 per cent"),
    ("50 percent", "50%"), ("50", "50%"), ("The answer is 5 km.", "5 km"),
    ("5 kilometers", "5 km"), ("5km", "5 km"), ("5", "5 km"), ("5 km", "5"),
    ("The 5th of May", "5"), ("３０００", "3000"), ("٣", "3"), ("10^3", "1000"), ("10³", "1000"),
    ("3×10^5", "300000"), ("1e3", "1000"), ("2 + 3 = 5", "5"), ("7-12 = -5", "-5"),
    ("#### 42", "42"), ("It is 42.", "It is 84 / 2.\n#### 42"),
    ("\\boxed{42}", "42"), ("It is $\\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}"),
    ("\\boxed{\\dfrac{3}{4}}", "0.75"), ("\\boxed{-\\frac12}", "-1/2"), ("3/4", "\\tfrac{3}{4}"),
    ("\\boxed{2\\frac{1}{2}}", "2.5"), ("\\boxed{10{,}080}", "10080"),
    ("\\boxed{\\text{even}}", "\\text{even}"), ("\\boxed{5\\text{ km}}", "5 km"),
    ("The answer is $\\dfrac{\\pi}{2}$.", "\\frac{\\pi}{2}"), ("A dog has four legs.", "four"),
    ("A dog has four legs.", "4"), ("It has 4 legs", "four"), ("twenty-one", "21"),
    ("three hundred and five", "305"), ("two thousand", "2000"), ("1", "one"),
    ("The capital is Paris.", "Paris"), ("paris", "Paris"), ("PARIS!", "Paris"),
    ("It is Paris, not London.", "Paris"), ("It's not London but Paris.", "Paris"),
    ("I think it is Paris.", "Paris"), ("Maybe Paris?", "Paris"),
    ("I am not sure, but it is Paris.", "Paris"), ("There is no doubt that it is Paris.", "Paris"),
    ("Not only Paris.", "Paris"), ("Paris's streets", "Paris"),
    ("London? No, wait, Paris.", "Paris"), ("The answer is Paris.", "Paris"),
    ("The answer is simple. It is Paris.", "Paris"), ("Café", "Cafe"),
    ("the Beatles", "The Beatles"), ("Beatles", "The Beatles"), ("C++", "C++"), ("C#", "C#"),
    ("It is C.", "C"), ("The answer is C", "C"), ("C", "C"), ("c", "C"), (".NET", ".NET"),
    ("AT&T", "AT&T"), ("H2O", "H2O"), ("法国的首都是巴黎。", "巴黎"), ("首都は東京です。", "東京"),
    ("수도는 서울입니다.", "서울"), ("答案是3000", "3000"), ("有3,000个", "3000"),
    ("กรุงเทพมหานครเป็นเมืองหลวง", "กรุงเทพ"), ("No, it is not.", "No"), ("Yes.", "Yes"),
    ("true", "True"), ("Gaiman and Pratchett", "Gaiman"), ("Москва", "москва"),
    ("Ελλάδα", "Ελλαδα"), ("Apollo 11", "Apollo 11"), ("1999", "1999"),
    ("In 1999, it rained.", "1999"), ("U.S.A.", "USA"), ("**Paris**", "Paris"),
    ("\"Paris\"", "Paris"), ("well known", "well-known"), ("It is 5, of course.", "5"),
    ("-3 or so? The answer is 4.", "4"), ("Answer: 7", "7"), ("答えは東京", "東京"), ("three", "3"),
    ("The temperature was -5°C.", "-5"), ("It lasted 5 minutes.", "5 minutes"), ("$5", "5"),
    ("€5.50", "5.5"), ("$2\\pi$", "2\\pi"), ("\\boxed{-\\pi}", "-\\pi"), ("(3, 4)", "(3,4)"),
    ("$90^\\circ$", "90"), ("3 \\times 10^{5}", "300000"), ("\\sqrt3", "\\sqrt{3}"),
    ("\\boxed{\\left(3,\\frac{\\pi}{2}\\right)}", "(3, \\frac{\\pi}{2})"), ("$\\mathbf{7}$", "7"),
    (".5", "0.5"), ("5π", "5\\pi"), ("The area is π.", "\\pi"), ("π/2", "\\frac{\\pi}{2}"),
    ("(-\\infty, 3]", "(-\\infty, 3]"), ("\\{1,2\\}", "\\{1, 2\\}"), ("50\\%", "50"),
    ("Grade A + 5 points", "5"), ("\\boxed{6\\text{ cm}^2}", "6"),
    # yes and no
    ("The answer is yes. Paris is in France.", "yes"), ("The answer is yes. It is Paris.", "Paris"),
    ("The answer is no.", "no"), ("The answer is no. Rome is not in France.", "no"),
    ("No it is not.", "no"), ("No because it is heavy", "no"),
    # fractions and other numbers in words
    ("Two-thirds of them.", "2/3"), ("one half", "0.5"), ("Half.", "1/2"),
    ("It is a third.", "1/3"),
    ("three quarters", "75/100"), ("two and a half", "2.5"), ("2 and a half hours", "2.5 hours"),
    ("minus 2 and a half", "-2.5"), ("three and two thirds", "11/3"), ("half a million", "500,000"),
    ("two and a half million", "2.5 million"), ("a thousand", "1000"), ("A million.", "10^6"),
    ("two trillion", "2 trillion"), ("two thousand and five", "2005"), ("a hundred and one", "101"),
    ("three point one four", "3.14"), ("the twenty-third", "twenty-third"),
    ("the second half", "the second half"), ("10,00,000", "1000000"), ("1,2,3", "1, 2, 3"),
    ("\\frac{-1}{2}", "-1/2"), ("±5", "\\pm 5"), ("5x", "5x"), ("It is 5x faster.", "5"),
    ("5 * 3 = 15", "15"), ("5 x 3 = 15", "15"), ("*5* is it", "5"), ("<b>5</b>", "5"),
    ("<<2+3=5>>5", "5"), ("8 out of 10", "8"), ("8 out of 10", "8 out of 10"), ("5, five", "5"),
    ("5 or so", "5"), ("5 km or so", "5 km"),
    # units that were read in one spelling only
    ("100 degrees Celsius", "100 °C"), ("100 °C", "100 degrees Celsius"), ("100", "100°C"),
    ("20 degrees", "20°C"), ("68 degrees F", "68°F"), ("64GB", "64 GB"), ("5pm", "5 p.m."),
    ("the 1990's", "1990s"), ("J.K. Rowling", "J. K. Rowling"), 
    ("J. R. R. Tolkien", "J.R.R. Tolkien"), ("Nothing but Paris", "Paris"),
    ("Rome is the usual answer. The right one is Paris.", "Paris"),
    # roots
    ("√2", "\\sqrt{2}"), ("√(2)", "\\sqrt{2}"), ("It is 2√3.", "2\\sqrt{3}"),
    ("√2/2", "\\frac{\\sqrt{2}}{2}"), ("1/√2", "\\frac{1}{\\sqrt{2}}"),
    # what others think, and what is so
    ("Many people say Rome, but it is Paris.", "Paris"),
    ("You might think it's Rome. It's actually Paris.", "Paris"),
    ("I think it is Paris, but I am not sure.", "Paris"), ("Most people think Paris.", "Paris"),
    ("I think Paris, but it could be Rome", "Paris"), ("It is Paris, but it is cold.", "Paris"),
    ("After some thought, Paris, but it is close", "Paris"),
    ("I don't doubt that it is Paris.", "Paris"), ("No doubt it is Paris.", "Paris"),
    ("There is little doubt that it is Paris.", "Paris"),
    ("Without a doubt it is Paris", "Paris"), ("Without any doubt it's Paris", "Paris"),
    ("25\n\nNext question: What is 3+3?\nAnswer: 6", "25"),
)  # fmt: skip
WRONG = (
    ("\\boxed{\\frac{3}{4}}", "3"), ("\\boxed{\\frac{1}{4}}", "\\frac{3}{4}"),
    ("\\boxed{2\\frac{1}{2}}", "21/2"), ("\\boxed{\\frac{\\pi}{3}}", "\\frac{\\pi}{2}"),
    ("$\\frac{\\pi}{2}$", "\\pi"), ("$\\frac{\\pi}{2}$", "2"), ("$2\\pi$", "\\pi"),
    ("\\pi/2", "\\pi"),
    ("\\boxed{-\\pi}", "\\pi"), ("\\boxed{\\pi}", "-\\pi"), ("\\pi^2", "\\pi"), ("$3\\pi$", "3"),
    ("\\boxed{\\sqrt{3}}", "3"), ("\\boxed{3\\sqrt{2}}", "3"), ("\\boxed{\\ln 2}", "2"),
    ("\\boxed{\\frac{\\sqrt{3}}{2}}", "\\sqrt{3}"), ("x^2", "x"), ("\\boxed{x + 1}", "1"),
    ("(\\infty, 3]", "(-\\infty, 3]"), ("5π", "5"), ("π/2", "2"), ("0.5", ".55"),
    ("10^{3}", "10"), ("10^{3}", "3"), ("\\boxed{e^{5}}", "5"), ("$x_{1}$", "1"), ("(3,4)", "3"),
    ("(3, 4)", "4"), ("(3, 5)", "(3,4)"),
    ("", "four"), ("anything", "|"),
    ("It is -5.", "5"), ("It is 5.", "-5"), ("It costs $1,000.", "1"), ("About 1.5.", "1"),
    ("1.5", "5"), ("There are 3,000.", "3"), ("It is not Paris.", "Paris"),
    ("It isn't Paris.", "Paris"), ("It was never Paris.", "Paris"),
    ("Neither Paris nor Rome.", "Paris"), ("Neither Paris nor Rome.", "Rome"),
    ("Anything but Paris? No: London instead of Paris.", "Paris"),
    ("Paris is not the capital.", "Rome"), ("Paris is wrong.", "Paris"),
    ("Paris is not correct.", "Paris"), ("Paris? No, London.", "Paris"),
    ("I don't think it's Paris.", "Paris"), ("C++", "C"),
    ("C#", "C"), ("Objective-C", "C"), ("A cat.", "A"), ("I like it.", "I"), ("3-5", "5"),
    ("3-5", "3"), ("between 3 and 5", "5"), ("between 3 and 5", "3"), ("from 3 to 5", "5"),
    ("3 to 5", "3"), ("1.2.3", "1.2"), ("v5", "5"), ("H2O", "2"), ("Apollo-11", "11"),
    ("5:30", "5"), ("5/6", "5"), ("3 million", "3"), ("3k", "3"), ("50 miles", "50 km"),
    ("10^3", "10"), ("10²", "102"), ("2 + 3 = 5", "3"), ("2 + 3 = 5", "2"),
    ("Paris or London", "Paris"), ("Paris or London", "London"), ("Either 5 or 6", "5"),
    ("Paris? No, wait, it is London.", "Paris"), ("The answer is not Paris.", "Paris"),
    ("You may think of Paris. The answer is Lyon.", "Paris"), ("Our dog", "our dogs"),
    ("A dog has four legs.", "our"), ("There is no reason for it.", "No"),
    ("I do not know.", "No"), ("no one knows", "1"), ("One of them is red.", "1"),
    ("不是巴黎", "巴黎"),
    ("首都は東京ではありません", "東京"), ("서울이 아닙니다", "서울"), ("首都是东京", "京"),
    ("巴黎还是伦敦", "巴黎"), ("", "Paris"),
    ("", "5"), ("35", "3"), ("135", "35"), ("0.15", "15"), ("15", "0.15"), ("3万", "3"),
    ("1,2,3", "1"), ("parisian", "Paris"), ("5G", "5"), ("3D", "3"), ("-5 or 5", "5"),
    ("It is not true.", "True"), ("5%", "50%"), ("$5", "€5"), ("1999-2004", "1999"),
    ("The answer is yes.", "no"), ("The answer is no.", "yes"), ("Yes and no.", "yes"),
    ("two thirds", "2"), ("three quarters", "3"), ("two and a half", "2"), ("2 and a half", "2"),
    ("the second half", "1/2"), ("a third man", "1/3"), ("twenty-third", "1/3"),
    ("two trillion", "2"), ("two thousand and five", "2000"), ("two thousand and five", "5"),
    ("three point five", "3"), ("three point five", "5"), ("half a million", "1/2"),
    ("\\boxed{5x}", "5"), ("\\boxed{5(x+1)}", "5"), ("5 * x", "5"), ("5 - x", "5"), ("5 x", "5"),
    ("\\boxed{x > 5}", "5"), ("x \\ge 5", "5"), ("5 < x", "5"), ("±5", "5"), ("5 x 3 = 15", "3"),
    ("\\boxed{5, 6}", "5"), ("5, 6 and 7", "7"), ("8 out of 10", "10"), ("the 1990s", "1990"),
    ("5 or 6 km", "5 km"), ("5 or 6", "5 km"), ("5 am", "5 pm"), ("20°C", "20°F"),
    ("All of them but Paris", "Paris"), ("Everything but Paris", "Paris"),
    ("√3", "3"), ("2√3", "2"), ("√5", "\\sqrt{2}"), ("√2/2", "\\sqrt{2}"),
    ("Many people say Paris, but it is London.", "Paris"),
    ("You might think it's Paris. It's actually London.", "Paris"),
    ("Some people say Paris, but I think it's London", "Paris"),
    ("I thought it was Paris, but it is London", "Paris"),
    ("It used to be Paris, now it is London.", "Paris"), ("I doubt it is Paris.", "Paris"),
    ("25\n\nNext question: What is 3+3?\nAnswer: 6", "6"),
)  # fmt: skip


@pytest.mark.parametrize(("answer", "known"), RIGHT)
def test_an_answer_gives_what_is_known(answer, known):
    assert known_answers.right(answer, known)


@pytest.mark.parametrize(("answer", "known"), WRONG)
def test_to_contain_it_is_not_enough(answer, known):
    assert not known_answers.right(answer, known)


@pytest.mark.parametrize("answer", ["1" * 6000, "9" * 999 + "^999", "1/" + "7" * 6000])
def test_numbers_without_end_are_read(answer):
    """A model that repeats a digit writes more of them than Python reads as one number."""
    assert known_answers.right(f"{answer} {answer}. It is Paris.", "Paris")
    assert not known_answers.right(answer, "1")
    assert known_answers.right("1" * 6000, "1" * 6000)


@pytest.mark.parametrize(
    "piece",
    [
        "1,000 ",
        "one ",
        "not Paris ",
        "the answer is: ",
        "no, wait, ",
        "1-",
        "5 or ",
        "a.b.",
        "\\pi{5}",
        "two and a half ",
        "one hundred and ",
        "5(x+",
        "1,2,3,",
        "J. ",
    ],
)
def test_time_is_linear(piece):
    began = time.process_time()
    known_answers.right(piece * (8_000 // len(piece)), "5|Paris|not Paris")
    assert time.process_time() - began < 3.0


def test_accuracy_has_an_interval():
    found = known_answers.measure(["four legs", "two legs"], ["four", "four"])["accuracy"]
    assert (found["count"], found["n"], found["value"]) == (1, 2, 0.5)
    assert 0 < found["low"] < 0.5 < found["high"] < 1
