import pytest

from keras_robustlt.class_names import display_width, ljust, one_line, rjust, wrapped
from keras_robustlt.evaluation.results import text_table
from keras_robustlt.experiments.comparison import markdown_table


@pytest.mark.parametrize(
    ("text", "width"),
    [("cat", 3), ("猫", 2), ("cafe\u0301", 4), ("🐱", 2), ("قطة", 3), ("", 0)],
)
def test_display_width(text, width):
    assert display_width(text) == width
    assert ljust(text, 7) == text + " " * (7 - width)
    assert rjust(text, 7) == " " * (7 - width) + text


def test_one_line():
    assert one_line(" two\n\tlines ") == "two lines"
    assert one_line("cafe\u0301") == "café"
    assert one_line(b"\xff") == "\\xff"


def test_wrapped():
    assert wrapped("a name of several words", 10) == ["a name of", "several", "words"]
    assert wrapped("猫和狗在花园里玩耍", 10) == ["猫和狗在花", "园里玩耍"]
    assert wrapped("", 10) == [""]


def test_long_and_wide_heads_of_a_table():
    table = text_table(["attack", "猫", "a name too long"], [["clean", "50.0", "9.0"]])
    assert table.split("\n") == [
        "              a name too",
        "attack    猫        long",
        "------  ----  ----------",
        "clean   50.0         9.0",
    ]


def test_names_do_not_break_a_table_in_markdown():
    table = markdown_table(["", "a|b", "<b>\nc"], [["猫", "1", "2"]])
    assert table.split("\n") == [
        "|    | a\\|b | \\<b> c |",
        "| -- | ---: | -----: |",
        "| 猫 |    1 |      2 |",
    ]
