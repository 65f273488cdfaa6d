"""Answers against golds of every kind, by hand; what is exact against Python's own fractions."""

import time
from fractions import Fraction

import pytest

from steps.judges import arithmetic, numbers, units
from steps.judges.canonical import plain
from steps.judges.comparison import compare, kind_of, same
from steps.judges.latex import for_grammar, tidy
from steps.judges.numbers import Quantity, Several, Unread, read_number, read_time
from steps.judges.shapes import shape_of


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("1,234.5", Fraction("1234.5"), ""),
        ("1.234,5", Fraction("1234.5"), ""),
        ("3,75", Fraction("3.75"), ""),
        ("12 345 678", Fraction(12345678), ""),
        ("-2 1/3", Fraction(-7, 3), ""),
        ("6.02e23", Fraction(602 * 10**21), ""),
        ("1.5 × 10^-3", Fraction(3, 2000), ""),
        ("€ 20", Fraction(20), "€"),
        ("-$5.50", Fraction(-11, 2), "$"),
        ("$3.2 million", Fraction(3200000), "$"),
        ("one hundred and five pages", Fraction(105), "page"),
        ("three dozen eggs", Fraction(36), "egg"),
        ("18 times", Fraction(18), "time"),
        ("60 miles per hour", Fraction(60), "mile/h"),
        ("12 square metres", Fraction(12), "m^2"),
        ("12 cm2", Fraction(12), "cm^2"),
        ("x = 4 + 5 = 9", Fraction(9), ""),
        ("2^-70", Fraction(1, 2**70), ""),
        (r"0.1\overline{6}", Fraction(1, 6), ""),
        ("12 in", Fraction(12), "in"),
        ("6 in. long", Fraction(6), "in"),
        ("36 square in", Fraction(36), "in^2"),
        ("6 in total", Fraction(6), ""),
        ("6 in the red box", Fraction(6), "red box"),
        ("The total is 42 apples.", Fraction(42), "apple"),
        ("1 and 1/2", Fraction(3, 2), ""),
        ("1,200 and 1/2", Fraction(2401, 2), ""),
        (r"1 \text{ and } \frac{1}{2}", Fraction(3, 2), ""),
        ("one and a half hours", Fraction(3, 2), "h"),
        ("two and three quarters", Fraction(11, 4), ""),
        ("one and a half million", Fraction(1500000), ""),
        ("half an hour", Fraction(1, 2), "h"),
        ("three-quarters", Fraction(3, 4), ""),
        ("a third", Fraction(1, 3), ""),
        ("18 half", Fraction(9), ""),
        ("a half dozen", Fraction(6), ""),
        ("one million, two hundred thousand and five", Fraction(1200005), ""),
        ("one fifth grader", Fraction(1), "fifth grader"),
        ("5 o'clock", Fraction(5), "o'clock"),
        ("2 hours 45 minutes", Fraction(11, 4), "h"),
        ("1 h, 1 min and 1 s", Fraction(3661, 3600), "h"),
        ("7 dollars and 5 cents", Fraction(705, 100), "$"),
        ("6 feet 3 inches", Fraction(25, 4), "ft"),
        ("12,34,567", Fraction(1234567), ""),
        ("2.5M", Fraction(2500000), ""),
        ("about 12", Fraction(12), ""),
        ("$50 - $8 = $42", Fraction(42), "$"),
        ("41 visitors over 2 weeks", Fraction(41), "visitor"),
        ("<answer>7</answer>", Fraction(7), ""),
        ("7 ✅", Fraction(7), ""),
        ("三十七", Fraction(37), ""),
        ("一百零五元", Fraction(105), "¥"),
        ("两万三千", Fraction(23000), ""),
        ("二〇二四", Fraction(2024), ""),
        ("-4°C", Fraction(-4), "°C"),
        (r"4\,\text{m}\cdot\text{s}^{-2}", Fraction(4), "m/s^2"),
    ],
)
def test_numbers_are_read_exactly(text, value, unit):
    assert read_number(plain(tidy(text))) == Quantity(value, unit)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("7 or 8", Several), ("7-8", Several), ("1 2", Several), ("7 8", Several), ("not 7", Unread), ("7x", Unread),
        ("under 7", Unread), ("step 7", Unread), ("7 = 8", Unread), ("7 > 6", Unread), ("--7", Unread), ("", Unread),
        ("((7)", Unread), ("nothing", Unread), ("1/0", Unread), ("7 + 1", Several), ("7!!? apples", Unread),
        ("12 and", Unread), ("12 eggs or", Unread), ("1 and 3/2", Several), ("2.5 and 1/2", Several),
        ("two and three", Several), ("one two", Several), ("half of 36", Several), ("one half of twenty", Several),
        ("half past 5", Unread), ("the third", Unread), ("5 p", Unread),
        ("twice 7", Unread), ("Double 7 is meant", Unread), ("7 squared", Unread), ("7 cubed", Unread),
        ("7 hundredths", Unread), ("±7", Unread), (r"\pm 7", Unread), ("f(7)", Unread),
    ],
)  # fmt: skip
def test_what_is_no_one_number_is_none(text, error):
    with pytest.raises(error):
        read_number(plain(tidy(text)))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("±7", Unread),
        (r"\mp 7", Unread),
        ("5 cats and 8 dogs", Several),
        ("45 minutes 2 hours", Several),
        ("2 hours 3 hours", Several),
        ("41 visitors and 2 weeks", Several),
        ("41 visitors over 2 floors", Several),
        ("三亚", Unread),
        ("1,50,00", Several),
    ],
)
def test_numbers_beside_each_other_are_one_amount_only_where_their_units_say_so(text, error):
    with pytest.raises(error):
        read_number(plain(tidy(text)))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("9+9", 18), ("2^10", 1024), ("5!", 120), ("(1+2)*3-4/2", 7), ("-3^2", -9), ("√49", 7), ("2(3)", 6),
        ("9^9^9^9", None), ("1000!", None), ("1/0", None), ("√2", None), ("2+", None), ("x", None), ("(1", None),
    ],
)  # fmt: skip
def test_arithmetic(text, value):
    assert arithmetic.evaluate(text) == value


@pytest.mark.parametrize(
    ("one", "other", "factor"),
    [("cm", "m", Fraction(1, 100)), ("min", "h", Fraction(1, 60)), ("mile", "mile", 1), ("mile", "egg", None),
     ("apple", "green apple", 1), ("mile", "mile/h", None), ("cm", "cm^2", None),
     ("cm^2", "m^2", Fraction(1, 10**4)), ("in^3", "ft^3", Fraction(1, 1728)), ("m^2", "m^3", None),
     ("km/h", "m/s", Fraction(5, 18)), ("ft^2", "in^2", 144), ("m^3", "cm^3", 10**6), ("m/s", "m/s^2", None),
     ("km^2", "km^3", None), ("$/h", "cent/min", Fraction(5, 3)), ("egg/h", "m/h", None)],
)  # fmt: skip
def test_units(one, other, factor):
    assert units.ratio(one, other) == factor


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("4:30 p.m.", 990),
        ("16:30", 990),
        ("12 am", 0),
        ("25:00", None),
        ("4", None),
        ("5 o'clock", 300),
        ("5 o’clock p.m.", 1020),
        ("17 Uhr", 1020),
        ("5 h", None),
        ("16:30 h", 990),
        ("4:30 in the afternoon", 990),
        ("4 in the morning", 240),
        ("9:15 at night", 1275),
        ("4.30 pm", 990),
        ("4.30", None),
        ("noon", 720),
        ("midnight", 0),
    ],
)
def test_times(text, minutes):
    assert read_time(plain(text)) == minutes


KINDS = {
    "number": [
        "42",
        "1,200",
        r"\frac{1}{2}",
        r"$42$",
        "1e5",
        "5 miles",
        "½",
        r"0.\overline{3}",
        "10\\text{ cm}",
        "2 and a half",
        "1 and 1/2",
        "one hundred and five",
        "5 o'clock",
        "half",
    ],
    "choice": ["B", r"\text{(C)}", "(A)"],
    "time": ["4:30 p.m.", "12:00"],
    "base": ["52_8", "101_{2}"],
    "text": ["Paris", "北京", "no", "Bo", "Да", r"\text{Evelyn}", "New York", "two apples and a pear"],
    "structure": ["(1,2)", "[0, 1)", r"\{1,2\}", "2, 5", "x > 3", "y = 2x", r"\pm 3", r"19 \text{ and } 43"],
    "expression": [r"\sqrt{2}", "x^2+1", r"2\pi", "√2", r"\ln 2", "n!"],
}


@pytest.mark.parametrize(("gold", "kind"), [(gold, kind) for kind, golds in KINDS.items() for gold in golds])
def test_the_kind_of_a_gold(gold, kind):
    assert kind_of(gold) == kind


@pytest.mark.parametrize(
    ("gold", "given", "outcome"),
    [
        ("5 miles", "5 miles", "right"), ("5 miles", "5", "right"), ("5 miles", "5 eggs", "wrong"),
        ("100 cm", "1 m", "right"), ("100 cm", "10 m", "wrong"), ("20%", "0.2", "right"), ("20%", "20", "right"),
        ("20", "0.2", "wrong"), ("0.2", "20%", "right"), ("$5", "€5", "wrong"), ("18", "18 or 20", "ambiguous"),
        ("12", "[1, 2]", "ambiguous"), ("[1,2]", "(1,2)", "wrong"), ("(1,2)", "(2,1)", "wrong"),
        (r"\{1,2\}", "2, 1", "right"), ("2, 5", "5 and 2", "right"), ("2, 5", "x = 2, x = 5", "right"),
        ("x > 3", "(3, \\infty)", "right"), ("x > 3", r"[3, \infty)", "wrong"), ("x = 5", "5", "right"),
        ("x = 5", "y = 5", "wrong"), ("41", "41=42", "unread"), ("41", "40+1", "ambiguous"), ("B", "(B) 17", "right"),
        ("B", "D", "wrong"), ("52_8", "52_9", "wrong"), ("52_8", r"52_{\text{eight}}", "right"),
        ("4:30 p.m.", "16:30", "right"), ("4:30 p.m.", "4:30 a.m.", "wrong"), ("Paris", "paris.", "right"),
        ("5", "5 o'clock", "right"), ("5 o'clock", "5", "right"), ("5 o'clock", "17:00", "right"),
        ("5 o'clock", "5:30", "wrong"), ("5:00", "5 o'clock", "right"), ("5:00 p.m.", "5 o'clock", "wrong"),
        ("17 Uhr", "5:00", "wrong"), ("5 miles", "5 o'clock", "wrong"), ("2 and a half", "2.5", "right"),
        ("2 and a half", "3", "wrong"), ("1.5", "1 and 1/2", "right"), ("5", "two and three", "ambiguous"),
        ("12 ft", "12 in", "wrong"), ("1 ft", "12 in", "right"), ("36 ft^2", "36 in^2", "wrong"),
        ("1 m^2", "10000 cm^2", "right"), ("6", "6 in total", "right"), ("5 miles", "5 in", "wrong"),
        ("Paris", "Parish", "wrong"), ("Friday", "on Friday", "right"), ("the Nile", "Nile", "right"),
        ("Friday", "not on Friday", "wrong"), ("3:7", "3 to 7", "right"), ("3:7", "7 to 3", "wrong"),
        ("7", "±7", "ambiguous"), ("7", r"\mp 7", "unread"), ("(1,2)", r"\langle 1, 2 \rangle", "right"),
        ("101_2", "(101)_2", "right"), ("101_2", "(110)_2", "wrong"), (r"\mathbb{R}", r"(-\infty, \infty)", "right"),
        (r"\mathbb{R}", r"\text{all real numbers}", "right"), (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\begin{vmatrix} 1 & 2 \\ 3 & 4 \end{vmatrix}", "wrong"),
        (r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}",
         r"\begin{bmatrix} 1 & 2 \\ 3 & 4 \end{bmatrix}", "right"),
        (r"\mathbb{R}", r"\mathbb{Q}", "wrong"),
        ("8", r"\begin{aligned} x &= 8 \end{aligned}", "right"), ("8", r"\textcolor{red}{8}", "right"),
        ("8", r"\Large 8", "right"), ("8", r"{\color{red}8}", "right"),
        (r"\sqrt{5}", r"\sqrt{5} \approx 2.24", "right"),
        (r"\sqrt{5}", r"x \approx 2.24", "wrong"), (r"\sqrt{5}", r"\sqrt{7} \approx 2.24", "wrong"),
        ("3 hours", "180 minutes", "right"), ("3 hours", "2 hours 60 minutes", "right"),
        ("3.5", "3 hours 30 minutes", "right"),
        ("30", "3 hours 30 minutes", "wrong"), ("7", "", "unread"), ("7", "9" * 1000, "unread"),
    ],
)  # fmt: skip
def test_verdicts_that_need_no_process(gold, given, outcome):
    assert compare(gold, given, None)[0] == outcome


def test_a_number_before_a_matrix_is_of_each_of_its_cells():
    asked = []

    def same(one: str, other: str) -> bool:
        asked.append((one.replace(" ", ""), other.replace(" ", "")))
        return True

    matrix = r"\begin{pmatrix} 1 \\ x^{2} \end{pmatrix}"
    assert compare(r"\begin{pmatrix} 3 \\ x \end{pmatrix}", rf"\frac{{1}}{{5}}{matrix}", same)[0] == "right"
    assert asked == [(r"(\frac{1}{5})(1)", "3"), (r"(\frac{1}{5})(x^{2})", "x")]
    assert shape_of(f"A = {matrix}").kind == "relation"


@pytest.mark.parametrize(("gold", "given"), [(r"\frac{2\pi}{3}", r"120^\circ"), (r"120^\circ", r"\frac{2\pi}{3}")])
def test_an_angle_is_one_in_degrees_and_in_radians(gold, given):
    """120 pi / 180."""
    asked = []
    compare(gold, given, lambda one, other: asked.append({one, other}) or True)
    assert len(asked) == 1 and any(side.endswith(r"\pi}{180}") for side in asked[0])
    # 60 pi is no angle of 60 degrees, and a bare 60 is none.
    assert compare(r"\frac{\pi}{3}", "60", lambda one, other: r"\pi}{180" in one)[0] == "wrong"


def test_what_has_one_form_is_right_whatever_its_kind():
    assert all(same(gold, gold) for golds in KINDS.values() for gold in golds)


@pytest.mark.parametrize(
    ("text", "formula"),
    [
        (r"\dfrac12", r"\frac{1}{2}"), (r"{1 \over 2}", r"\frac{1 }{ 2}"), ("√2", r"\sqrt{2}"), ("x²", "x^{2}"),
        (r"\sin 60^\circ", r"\sin (60\cdot\frac{\pi}{180})"), ("__import__('os')", None), ("all numbers", None),
        ("1 2", None), ("52_8", None), ("3:2", None), (r"\log_2 8", r"\log_{2} 8"),
    ],
)  # fmt: skip
def test_latex_is_brought_to_the_spelling_of_the_grammar(text, formula):
    assert for_grammar(tidy(text)) == formula


def test_shapes():
    assert shape_of(r"(-\infty, 2) \cup (3, 4]").kind == "union"
    assert [part.parts[0] for part in shape_of("1,200, 5").parts] == ["1,200", "5"]
    assert shape_of(r"\emptyset").parts == ()


@pytest.mark.parametrize(
    "piece",
    ["1,", "1 ", "(", "{", "-", "a ", "1/", "one ", r"\frac{", "= ", "$", "1.", "_", "^", "or ", r"\text{", "!"],
)
def test_answers_built_to_take_long_do_not(piece):
    began = time.process_time()
    for gold in ("42", "(1, 2)", "x^2"):
        compare(gold, (piece * 500)[:500], None)
        compare(gold, "1" + (piece * 500)[:498] + "x", None)
    assert time.process_time() - began < 1.5


def test_numbers_of_many_digits_are_exact():
    assert numbers.same_quantity(read_number("123456789012345678"), read_number("123,456,789,012,345,678"))
    assert not numbers.same_quantity(read_number("123456789012345678"), read_number("123456789012345679"))
