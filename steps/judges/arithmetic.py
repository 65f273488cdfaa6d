"""Arithmetic of literal numbers, exact and bounded: 2^(-98), 5!, 9 + 9, 50/100. What is too large is not worked out."""

import math
import re
from fractions import Fraction

# Bits of the largest number that is worked out, and the largest factorial.
BITS, FACTORIAL = 1 << 13, 500
_TOKEN = re.compile(r"\s*(\d{1,3}(?:,\d{3})+(?![\d,])|\d+(?:\.\d+)?(?:[eE][-+]?\d{1,3})?|\.\d+|[-+*/^()!√])")
# A product or sum is a way to a number: 2*10^6 is one, 9 + 9 and 3*4 are not.
_LITERAL = re.compile(
    r"[-+]?\s?(?:\d{1,3}(?:,\d{3})+|\d+(?:\.\d*)?|\.\d+)(?:\s*\*\s*10\^\(?-?\d{1,4}\)?|[eE][-+]?\d{1,4}|!)?"
    r"|[-+]?\d+\s+\d+\s*/\s*\d+|[-+]?\(?[-+]?\d+(?:\.\d+)?\)?\s*\^\s*\(?-?\d+\)?"
    r"|[-+]?\(?[-+]?\d+(?:\.\d+)?\)?\s*/\s*\(?[-+]?\d+(?:\.\d+)?(?:\^\(?-?\d+\)?)?\)?"
)


def is_literal(text: str) -> bool:
    """Whether a text is a number written out, and not the way to one."""
    return _LITERAL.fullmatch(text) is not None


class _No(Exception):
    pass


def evaluate(text: str) -> Fraction | None:
    """The value of a text of literal numbers and + - * / ^ ! √ ( ); None of another, and of one that has none."""
    if len(text) > 200:
        return None
    if mixed := re.fullmatch(r"([-+]?)(\d+)\s+(\d+)\s*/\s*(\d+)", text.strip()):
        below = int(mixed[4])
        return (-1 if mixed[1] == "-" else 1) * (int(mixed[2]) + Fraction(int(mixed[3]), below)) if below else None
    tokens, place = [], 0
    text = text.rstrip()
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found:
            return None
        tokens.append(found[1])
        place = found.end()
    try:
        parser = _Parser(tokens)
        value = parser.sum()
        return value if parser.at == len(tokens) else None
    except (_No, IndexError, ZeroDivisionError, RecursionError):
        return None


class _Parser:
    def __init__(self, tokens: list[str]):
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self) -> Fraction:
        value = self.product()
        while self.peek() in ("+", "-"):
            value = value + self.product() if self.take() == "+" else value - self.product()
        return _small(value)

    def product(self) -> Fraction:
        value = self.signed()
        while self.peek() in ("*", "/", "("):
            value = value / self.signed() if self.peek() == "/" and self.take() else value * self._factor()
        return _small(value)

    def _factor(self) -> Fraction:
        if self.peek() == "*":
            self.take()
        return self.signed()

    def signed(self) -> Fraction:
        if self.peek() in ("-", "+"):
            return -self.signed() if self.take() == "-" else self.signed()
        return self.power()

    def power(self) -> Fraction:
        base = self.postfix()
        if self.peek() != "^":
            return base
        self.take()
        exponent = self.signed()
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if exponent.denominator != 1 or abs(exponent) * size > BITS:
            raise _No
        return base ** int(exponent)

    def postfix(self) -> Fraction:
        value = self.atom()
        while self.peek() == "!":
            self.take()
            if value.denominator != 1 or not 0 <= value <= FACTORIAL:
                raise _No
            value = Fraction(math.factorial(int(value)))
        return value

    def atom(self) -> Fraction:
        token = self.take()
        if token == "(":
            value = self.sum()
            if self.take() != ")":
                raise _No
            return value
        if token == "√":
            inside = self.postfix()
            roots = [math.isqrt(part) for part in (max(inside.numerator, 0), inside.denominator)]
            if [root * root for root in roots] != [inside.numerator, inside.denominator]:
                raise _No
            return Fraction(*roots)
        if token[0] in "0123456789.":
            return _small(Fraction(token.replace(",", "")))
        raise _No


def _small(value: Fraction) -> Fraction:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) > BITS:
        raise _No
    return value
