"""Which answers say the same, and which do not, in tables that people made: one pair a line."""

import pytest

from steps.judges.canonical import LONGEST, canonical
from tests.bounds import within

# fmt: off
EQUAL = r"""
(1,200) ~ (1, 200)
[0,100] ~ [0, 100]
\{1,200\} ~ \{1, 200\}
42 ~ 42.0
1,000 ~ 1000
$5 ~ 5
007 ~ 7
0.1 ~ 0.10
Tarsk. ~ tarsk
a  b c ~ a b c
(B) ~ (b).
A ~ (A)
A ~ A.
A ~ A)
A ~ [A]
A ~ Ａ
B ~ \text{(B)}
C ~ **C**
D ~ Option D
北京 ~ 北京。
北京 ~ 「北京」
北京 ~ 北 京
北京 ~ 北京！
東京 ~ 東京。
กรุงเทพ ~ กรุงเทพ
दिल्ली ~ दिल्ली।
القاهرة ~ القاهرة.
5 km ~ 5km
5 km ~ 5.0 km
5 km ~ 5 kilometers
5公里 ~ 5 km
1,500 m ~ 1500m
50% ~ 50 %
50% ~ 50\%
50% ~ 50 percent
20 °C ~ 20℃
90° ~ 90^\circ
90° ~ 90 degrees
€5 ~ 5 €
€5 ~ 5 euros
$5 ~ 5 dollars
$1,234.50 ~ 1234.5
\frac{1}{2} ~ \dfrac{1}{2}
\frac{1}{2} ~ \frac12
\frac{1}{2} ~ 1/2
\frac{2}{4} ~ 1/2
½ ~ 1/2
1½ ~ 1 1/2
1\frac{1}{2} ~ 1 1/2
-\frac{1}{2} ~ \frac{-1}{2}
x^2 ~ x²
x^2 ~ x^{2}
x^{10} ~ x^10
2\sqrt{3} ~ 2√3
\sqrt{2} ~ \sqrt2
\sqrt{2} ~ sqrt(2)
3\pi ~ 3π
\frac{\sqrt{2}}{2} ~ √2/2
$x+1$ ~ x + 1
\(x+1\) ~ x+1
\boxed{7} ~ 7
\left(1, 2\right) ~ (1,2)
x \le 3 ~ x ≤ 3
x <= 3 ~ x≤3
−5 ~ -5
+5 ~ 5
.5 ~ 0.5
5. ~ 5
٤٢ ~ 42
４２ ~ 42
3\times 10^8 ~ 3*10^8
3 \cdot 10^8 ~ 300000000
1e3 ~ 1000
July 4, 1776 ~ 4 July 1776
July 4, 1776 ~ 1776-07-04
July 4th, 1776 ~ 4 Jul 1776
2008年8月8日 ~ 2008-08-08
2008年8月8日 ~ August 8, 2008
03/04/2020 ~ 3/4/2020
3:30 PM ~ 3:30 p.m.
5:00 pm ~ 5 PM
Paris ~ paris
Paris ~ "Paris"
Paris ~ “Paris”
YES ~ yes
No ~ no.
Yes! ~ yes
New York, NY ~ New York NY
U.S. ~ US
U.S.A. ~ USA
`print(x)` ~ print(x)
f(x, y) ~ f(x,y)
H₂O ~ H2O
don't ~ don’t
iPhone ~ iphone
YouTube ~ youtube
McDonald's ~ mcdonald's
True ~ true
é ~ é
(x, y) ~ (x,y)
{1, 2} ~ \{1,2\}
《红楼梦》 ~ 红楼梦
苹果、梨 ~ 苹果，梨
a, b, c ~ a b c
The Beatles ~ the beatles
São Paulo ~ são paulo
X = 5 ~ X=5
5 > 3 ~ 5>3
p → q ~ p \rightarrow q
p ∧ q ~ p \land q
∞ ~ \infty
(-∞, 3] ~ (-\infty,3]
3:2 ~ 3 : 2
1 234 ~ 1,234
$5 million ~ 5 million
H_2O ~ H₂O
5 KM ~ 5 km
AT&T ~ at&t
sqrt(x+1) ~ \sqrt{x+1}
√(2) ~ √2
\frac{x+1}{2} ~ (x+1)/2
x^{-1} ~ x⁻¹
x^{n+1} ~ x^(n+1)
CO₂ ~ CO2
Sept. 3, 2020 ~ 3 September 2020
5 Apples ~ 5 apples
.NET ~ .net
The Lord of the Rings ~ the lord of the rings
\text{5 cm} ~ 5 cm
5\text{ cm}^2 ~ 5 cm²
\$5 ~ $5
\mathbb{R} ~ ℝ
\alpha ~ α
\lambda ~ λ
2+3i ~ 2 + 3i
1{,}000 ~ 1,000
\{1, 2\} ~ {1,2}
\begin{pmatrix}1\\2\end{pmatrix} ~ \begin{pmatrix} 1 \\ 2 \end{pmatrix}
x = 5 ~ x=5
10 a.m. ~ 10 am
10:30 AM ~ 10:30am
① ~ 1
100 °F ~ 100 degrees Fahrenheit
2 hrs ~ 2 hours
Answer ~ answer
Yes, it is. ~ Yes it is
None ~ none
π/2 ~ \frac{\pi}{2}
-3/4 ~ \frac{-3}{4}
-3/4 ~ -\frac34
3/-4 ~ -3/4
5e-3 ~ 0.005
0 ~ -0
0.0 ~ 0
Москва ~ москва.
ΑΘΗΝΑ ~ αθηνα
서울 ~ 서울.
ありがとう！ ~ ありがとう
はい ~ はい。
हाँ। ~ हाँ
نعم ~ نعم.
"""

DIFFERENT = r"""
\frac{1}{2}x ~ \frac{1}{2x}
\sqrt{2}x ~ \sqrt{2x}
e^{2}x ~ e^{2x}
x^{2y} ~ x^{2}y
\frac{\pi}{2}r ~ \frac{\pi}{2r}
\log_{2}x ~ \log_{2x}
36x \sqrt{35x} ~ 36x \sqrt{35}x
[1,100] ~ [1100]
{1,234} ~ {1234}
C ~ C#
C ~ C++
C# ~ C++
F ~ F#
5! ~ 5
n! ~ n
.5 ~ 5
0.5 ~ 5
€5 ~ $5
€5 ~ 5
£5 ~ $5
¥5 ~ 5
2³ ~ 23
x² ~ x2
2^3 ~ 23
1½ ~ 11/2
5½ ~ 51/2
1,2 ~ 12
1, 2 ~ 12
(1, 2) ~ (12)
4 2 ~ 42
42 ~ 43
42 ~ -42
5-3 ~ 53
a[0] ~ a(0)
get_user ~ get user
get_user ~ getuser
getUser ~ getuser
mW ~ MW
5 mW ~ 5 MW
5 MeV ~ 5 meV
5 kB ~ 5 kb
CO ~ Co
Aa ~ aa
x ~ X
p ∧ q ~ p ∨ q
p → q ~ p ↔ q
¬p ~ p
5 km ~ 5 m
5 km ~ 5 miles
5 km ~ 5
50% ~ 50
50% ~ 0.5
1/2 ~ 0.5
50% ~ 50°
20 °C ~ 20 °F
1/2 ~ 2
1/2 ~ 12
\frac{1}{2} ~ \frac{2}{1}
\sqrt{2} ~ 2
√2 ~ 2
x^2 ~ x_2
x+1 ~ x-1
(1,2) ~ [1,2]
(1,2] ~ (1,2)
{1,2} ~ (1,2)
< ~ >
≤ ~ <
= ~ ==
x == y ~ x = y
!x ~ x
x++ ~ x
$PATH ~ PATH
"5" ~ 5
10000000000000001 ~ 10000000000000002
北京 ~ 南京
北京 ~ 北京市
是 ~ 不是
苹果、梨 ~ 苹果梨
July 4, 1776 ~ July 5, 1776
July 4, 1776 ~ June 4, 1776
July 4, 1776 ~ July 4, 1777
03/04/2020 ~ 04/03/2020
3:30 PM ~ 3:30 AM
3:30 ~ 330
A ~ B
A ~ AB
A and B ~ A
Paris ~ Pari
Not Paris ~ Paris
a b ~ ab
a b ~ a c
 ~ 42
true ~ false
-5 ~ 5
±5 ~ 5
5% ~ 5‰
क ~ कि
কি ~ ক
foo.bar ~ foobar
x.y ~ xy
i++ ~ ++i
*p ~ p
&x ~ x
H2O ~ H2O2
∅ ~ 0
1.2.3 ~ 1.23
192.168.0.1 ~ 192.168.01
U.S. ~ U.K.
3:2 ~ 32
3/2 ~ 3:2
10^3 ~ 103
log₂8 ~ log28
a_1 ~ a1
π ~ p
3π ~ 3
α ~ a
5 cents ~ 5 dollars
5 g ~ 5 kg
O(n) ~ O(n^2)
O(log n) ~ O(n log n)
f(x) ~ F(x)
BB Bb ~ BB BB
AaCcRr ~ AACcRr
aabb ~ Aabb
BbEe will be brown ~ BBEe will be brown
J.kg.K ~ J.kg.k
011B ~ 0011B
cd .. ~ cd
<b> ~ <i>
[1, 2] ~ [2, 1]
print ~ Print()
Mars 3 ~ Mark 3
2/3 cup ~ 2/3 cups
3:05 ~ 3:50
10 am ~ 10 pm
1 hour ~ 60 minutes
\sqrt[3]{2} ~ \sqrt{2}
a^b ~ a_b
"Yes," he said ~ Yes he said
C:\x ~ C
A+ ~ A-
A+ ~ A
T ~ F
null ~ 0
I ~ 1
3rd ~ 3
3d ~ 3D
x1 ~ x₁
1_000 ~ 1000
서울 시 ~ 서울시
はい ~ いいえ
ใช่ ~ ไม่ใช่
हाँ ~ हां
٣٫١٤ ~ 3.14
3,14 ~ 314
3,14 ~ 3.14
"""
# fmt: on


def pairs(table: str) -> list[tuple[str, str]]:
    return [(first, second) for first, second in (line.split(" ~ ") for line in table.strip("\n").splitlines())]


@pytest.mark.parametrize(("first", "second"), pairs(EQUAL))
def test_answers_that_say_the_same_are_equal(first, second):
    assert canonical(first) == canonical(second)


@pytest.mark.parametrize(("first", "second"), pairs(DIFFERENT))
def test_answers_that_say_something_else_are_not(first, second):
    assert canonical(first) != canonical(second)


def test_the_form_of_a_form_is_itself():
    """So that nothing depends on how often an answer was brought to its form."""
    forms = [canonical(answer) for pair in pairs(EQUAL) + pairs(DIFFERENT) for answer in pair]
    assert [form for form in forms if canonical(form) != form] == []


def test_all_lines_of_an_answer_count():
    assert canonical("$$\n\\frac{1}{2} x\n$$") == canonical("$\\frac12 x$") != canonical("$$\n\\frac{1}{3} x\n$$")
    assert (
        canonical("one wheel\nfour wheels") == canonical("one wheel four wheels") != canonical("one wheel\nno wheels")
    )


def test_numbers_are_exact_however_long():
    long = "9" * (LONGEST + 1)
    assert canonical(f"{long}.0") == canonical(long) != canonical(long[:-1] + "8")
    assert canonical("0.10") == "0.1" and canonical("1e-3") == "0.001"
    assert canonical("1e999999999") == "1e999999999"  # nothing that a line can say takes all memory


@pytest.mark.parametrize(
    "part",
    ["{", "\\frac{", "\\frac1", "\\sqrt{", "^{", "1,", "1 ", "1/", "a ", "(", "**", "$", "\\boxed{", "²", "'", ","],
)
def test_an_answer_built_to_take_long_does_not(part):
    with within(2.0):
        canonical((part * LONGEST)[:LONGEST])
        canonical(part * 200_000)
