"""Answers as models write them, made from a seed: right and wrong, tidy and rambling. Standard library only."""

import json
import random

LETTERS = "ABCD"
SHAPES = (
    *(
        "{x}",
        "({x})",
        "{x}.",
        "{x}:",
        "{x})",
        "{x}) {text}",
        "({x}) {text}",
        "{x}. {text}",
        " {x}\n",
        "**{x}**",
        "'{x}'",
    ),
    *("The answer is {x}.", "The correct answer is ({x}).", "Best option: ({x})", "Best option: {x}", "Answer: {x}"),
    *("The best option is {x} because {y} is wrong.", "I choose {x}", "I pick option {x}, not {y}.", "{y} or {x}?"),
    *(
        "Option {y} shows a dog. Option {x} fits.",
        "It is not {y}, so the answer is {x}",
        "{text}",
        "{x}{y}",
        "{x}, {y}",
    ),
    *(
        "答案是{x}",
        "选{x}。",
        "정답은 {x}",
        "答えは{x}です",
        "my answer is {x}! A dog is seen.",
        "{x} is right; {y} is not",
    ),
    *("the answer is {y}. No: the correct answer is {x}", "ANSWER IS {x}", "the choice is {text}", "{x} {text} {y}"),
    *(
        "",
        "   ",
        "...",
        "I cannot tell.",
        "a",
        "b)",
        "yes",
        "Both Dave and Ann",
        "CAB",
        "({x}), ({y}), ({x}) here",
        "?!,.",
        "E",
        "(E)",
        "None",
    ),
)
TEXTS = ("Yellow", "A red car", "Blue bag", "the Bear", "12", "Dan opens the door", "nothing", "City of Rome")
PIECES = (
    *"ABCDE", *"abcd", *" ().:;,!?'\"\n", " ", " ", "the answer is", "answer is ", "correct option is", "I select",
    "the best answer is ", "because", "A dog", "Bob", "选", "답은", "choice is", "I CHOOSE ", "(A)", "B.", "C:", "D)",
    "İ",
)  # fmt: skip


def choices(count, seed):
    """[(right letter, text)]: the shapes first, then texts thrown together from pieces."""
    dice = random.Random(seed)
    shaped = [
        shape.format(x=dice.choice(LETTERS), y=dice.choice(LETTERS), text=dice.choice(TEXTS)) for shape in SHAPES * 4
    ]
    thrown = ["".join(dice.choices(PIECES, k=dice.randint(1, 9))) for _ in range(count - len(shaped))]
    return [(dice.choice(LETTERS), text) for text in shaped + thrown]


FREE = (
    *("Less well-off", "Pew Research Center", "the Republican Party", "not answerable", "Not answerable", "blue"),
    *("The Life Cycle of a Butterfly", "Table 3 (left)", "$ 3 million", "a 5 mile run", "'quoted'", "France (12%)"),
)
EXACT = (
    *(
        "https://a.org/x?y=1",
        "eval.py",
        "page 12",
        "Page 12",
        "555-1234",
        "2020-05-01",
        "2021-07",
        "9 a.m.",
        "me@b.com",
    ),
    *("5/12/2019", "http://b.net", "notes.ipynb", "2020 05", "12"),
)
NUMBERS = (
    "12",
    "3.5",
    "0.25",
    "45%",
    "$1,200",
    "-7",
    "1e3",
    "12 million",
    "0",
    "100",
    "33.33",
    "5 kg",
    "7 mm",
    "99.5%",
)
FRAMES = (
    *("{}", "{}.", "Answer: {}", "answer:{}", "Answer: Answer: {}", "The answer is {}", "{} in total", "about {}"),
    *("({})", "It says {} on page 4", "{} and 17", "\n{}\n", "'{}'", "${}", "{} %", "{} miles", "[{}]", "['{}']"),
    *("Q? Answer: {} (sic)", "", "  ", "Not answerable", "Not answerable.", "Answer:", "I do not know", "0"),
    *("1,000,000", "1e400", "[1, 2", "{{'a'}}"),
)  # fmt: skip


def changed(text, dice):
    """The text as it is, or with a letter, a word or its case changed, or another text."""
    way = dice.randrange(7)
    words = text.split(" ")
    if way == 0 and len(text) > 1:
        place = dice.randrange(len(text))
        return text[:place] + dice.choice("xe1 .") + text[place + 1 :]
    if way == 1 and len(words) > 1:
        return " ".join(words[:-1])
    if way == 2:
        return text.upper()
    if way == 3:
        return dice.choice(FREE + EXACT + NUMBERS)
    if way == 4:
        number = dice.choice((0.005, 0.01, 0.011, 1.0, 100.0)) * float("".join(c for c in text if c.isdigit()) or 3)
        return f"{number:g}"
    return text


def documents(count, seed, formats):
    """[(format, right answer, text)]: `formats` maps a format to its right answers, lists as lists."""
    dice, rows = random.Random(seed), []
    for number in range(count):
        kind = list(formats)[number % len(formats)]
        right = dice.choice(formats[kind])
        if isinstance(right, list):
            items = [changed(str(item), dice) for item in right]
            dice.shuffle(items)
            said = dice.choice(
                (
                    str(items),
                    str(items),
                    str(items),
                    ", ".join(items),
                    " and ".join(items),
                    str(items[:-1]),
                    json.dumps(items),
                )
            )
            right = json.dumps(right)
        else:
            said = changed(right, dice)
        frame = dice.choice(FRAMES) if dice.random() < 0.6 else "{}"
        rows.append((kind, right, frame.format(said)))
    return rows


LISTS = (
    *(["red", "blue"], ["12", "7"], ["the cat", "a dog", "Rome"], ["page 3", "page 4"], ["45%", "3.5"], ["one"]),
    *(["Pew Research Center", "Less well-off"], ["Life Cycle of Bees", "Republican Party"], ["a bear", "a moose"]),
    *([3, 4.5], ["2020-05-01", "red"], ["", ""], ["https://a.org", "Ann Lee", "Bob"], [1], ["5 kg", "x"]),
)
