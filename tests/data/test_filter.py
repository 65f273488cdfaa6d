"""Length, language and quality against texts written by hand in ten languages."""

from argparse import Namespace

import pytest

from steps.core.files import read_json, read_jsonl, write_jsonl
from steps.data import filter
from steps.data.language import SCRIPTS
from steps.data.quality import repetition
from steps.data.rows import RowProblem, words
from steps.settings.data import LANGUAGES

SETTINGS = {
    "language": "en",
    "min_prompt_chars": 5,
    "max_prompt_chars": 400,
    "min_response_chars": 1,
    "max_response_chars": 400,
    "max_repetition": 0.6,
}


def row(prompt="How many plums are left in the bag?", response="3 plums are left.", **keys):
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
    return {"id": "a:0", "messages": messages, "answer": None, "file": "a.json", "line": 1, "row": 0} | keys


def reason(given, **settings):
    """The reason a row is quarantined for, with its column; None when it stays."""
    try:
        filter.check(given, SETTINGS | settings)
    except RowProblem as problem:
        return problem.reason, problem.column
    return None


def test_a_plain_row_stays():
    assert reason(row()) is None


@pytest.mark.parametrize(
    ("prompt", "response", "expected"),
    [
        ("a" * 4, "b", "too_short"),
        ("a b c", "b", None),
        ("it is " * 66 + "abcd", "b", None),
        ("it is " * 66 + "abcde", "b", "too_long"),
        ("abcde", "the " * 101, "too_long"),
    ],
)
def test_the_limits_are_inclusive(prompt, response, expected):
    found = reason(row(prompt, response), max_repetition=1.0)
    assert found == (None if expected is None else (expected, "messages"))


def test_all_turns_of_a_role_count():
    chat = row()["messages"] * 2
    assert reason({"messages": chat}, max_prompt_chars=69)[0] == "too_long"
    assert reason({"messages": chat}, max_prompt_chars=70) is None


FOREIGN = {
    "de": "Anna hat 12 Äpfel und kauft auf dem Markt noch 5. Wie viele Äpfel sind es jetzt?",
    "es": "Ana tiene doce manzanas y compra cinco más. ¿Cuántas manzanas tiene ahora?",
    "fr": "Anne a douze pommes et elle achète cinq pommes de plus. Combien de pommes a-t-elle dans le panier ?",
    "it": "Anna ha dodici mele e ne compra altre cinque. Quante mele ha in tutto nel cesto?",
    "pt": "A Ana tem doze maçãs e compra mais cinco. Com quantas maçãs ela fica agora?",
    "nl": "Anna heeft twaalf appels en koopt er nog vijf op de markt. Hoeveel appels heeft ze nu?",
    "pl": "Anna ma dwanaście jabłek i kupuje jeszcze pięć. Ile jabłek ma teraz?",
    "sv": "Anna har tolv äpplen och köper fem till. Hur många äpplen har hon nu?",
    "tr": "Ayşe'nin on iki elması var ve beş tane daha alıyor. Şimdi kaç elması var?",
    "ru": "У Анны двенадцать яблок, и она покупает ещё пять. Сколько яблок у неё теперь?",
    "zh": "安娜有十二个苹果，又买了五个。现在一共有多少个苹果？",
    "ja": "アンナはりんごを十二個持っていて、さらに五個買います。",
    "ko": "안나는 사과 열두 개를 가지고 있습니다. 지금 몇 개입니까?",
    "ar": "لدى آنا اثنتا عشرة تفاحة واشترت خمس تفاحات أخرى.",
    "el": "Η Άννα έχει δώδεκα μήλα και αγοράζει άλλα πέντε.",
    "he": "לאנה יש שנים עשר תפוחים והיא קונה עוד חמישה.",
    "hi": "अन्ना के पास बारह सेब हैं और वह पाँच और खरीदती है।",
}


@pytest.mark.parametrize("language", FOREIGN)
def test_other_languages_are_not_english_and_are_their_own(language):
    text = FOREIGN[language]
    assert reason(row(prompt=text)) == ("wrong_language", "messages[0].content")
    assert reason(row(response=text)) == ("wrong_language", "messages[1].content")
    assert reason(row(text, text), language=language) is None
    assert reason(row(text, text), language=None) is None


@pytest.mark.parametrize(
    "text",
    [
        "สวัสดีครับ วันนี้อากาศดีมาก",
        "გამარჯობა, როგორ ხარ დღეს?",
        "আমি আজ বাজারে যাচ্ছি।",
        "நான் இன்று சந்தைக்குச் செல்கிறேன்",
        "Ես այսօր գնում եմ շուկա",
        "ዛሬ ወደ ገበያ እሄዳለሁ",
        "నేను ఈరోజు మార్కెట్‌కు వెళ్తున్నాను",
        "ថ្ងៃនេះខ្ញុំទៅផ្សារ",
        "ဒီနေ့ဈေးသွားမယ်",
    ],
)
@pytest.mark.parametrize("language", ["en", "zh", "ru"])
def test_a_script_that_no_language_to_choose_is_written_in(text, language):
    own = FOREIGN.get(language, "Anna has twelve apples and buys five more.")
    assert reason(row(own, text), language=language) == ("wrong_language", "messages[1].content")
    assert reason(row(own, text), language=None) is None


@pytest.mark.parametrize("language", FOREIGN)
def test_english_is_not_another_language(language):
    english = "Anna has twelve apples and buys five more at the market. How many apples does she have now?"
    assert reason(row(english, english), language=language)[0] == "wrong_language"


@pytest.mark.parametrize(
    "text",
    [
        "Una Nils has 12 pears. Then Una gives 5 to Sten. How many pears does Una have now?",
        "Reverse the letters: e l a o y",
        "What is the capital of Côte d'Ivoire, and who is El Niño?",
        "x + y = 7, 2x - y = 5",
        "def f(x):\n    return [i ** 2 for i in range(x)]",
        "Say 你好 to Anna and Ольга at the door.",
        "3 * 4 = 12\n#### 12",
        "¿?!",
    ],
)
def test_names_formulas_code_and_quotations_are_not_another_language(text):
    assert reason(row(prompt=text), min_prompt_chars=1) is None


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        ("求极限：$\\lim_{x\\rightarrow0}\\frac{\\tan\\left(\\tan x\\right)}{\\tan x-\\sin x}=$____", "$\\frac{1}{2}$"),
        ("在C++中，下列定义正确的是", "int func(int x) {return (x*x);}"),
    ],
)
def test_chinese_with_formulas_and_code_is_chinese(prompt, response):
    assert reason(row(prompt, response), language="zh") is None


# Code, quotations, names, terms, translations and language lessons.
CHINESE = [
    ("总结：Climate change is a pressing issue and it is causing glaciers to melt.", "气候变化是紧迫的问题。"),
    ("什么是API？", "API 是应用程序编程接口，用来让不同的软件互相调用。"),
    ("什么是API？", "Application Programming Interface"),
    ("什么是 REST API Gateway？", "一种统一入口。"),
    (
        "写一个 Python 函数，计算斐波那契数列。",
        "```python\ndef fibonacci(n):\n    first, second = 0, 1\n    return first\n```",
    ),
    (
        "写一个 Python 函数，计算斐波那契数列。",
        "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a",
    ),
    (
        "用Java打印Hello World",
        'public class Hello {\n    static void main(String[] args) {\n        System.out.println("Hello!");\n    }\n}',
    ),
    ("写一条SQL查询所有年龄大于30的用户", "SELECT name FROM users WHERE age > 30 ORDER BY age;"),
    ("如何查看磁盘空间？", "df -h"),
    ("如何在 Linux 下查找大文件？", "find / -type f -size +100M -exec ls -lh {} \\;"),
    (
        "把下面的句子翻译成英语：今天天气很好，我们去公园散步吧。",
        "The weather is nice today; let's go for a walk in the park.",
    ),
    ("翻译成英文：我喜欢读书", "I like reading books and I read every evening before going to bed."),
    (
        "请将以下英文翻译成中文：The quick brown fox jumps over the lazy dog and runs into the forest.",
        "敏捷的棕色狐狸跳过了懒狗，跑进了森林。",
    ),
    (
        "Translate into Chinese: The weather is nice today and we will go to the park together.",
        "今天天气很好，我们要一起去公园。",
    ),
    (
        "用英语写一封感谢信。",
        "Dear Mr. Smith,\nThank you very much for your help during my stay.\nBest regards,\nLi Hua",
    ),
    ("乔布斯在斯坦福演讲的结尾说了什么？", "“Stay hungry, stay foolish.”"),
    ("莎士比亚的名句“To be, or not to be, that is the question”出自哪部作品？", "《哈姆雷特》"),
    ("“生存还是毁灭”的原文是什么？", '"To be, or not to be, that is the question."'),
    (
        "改正语法错误：She don't likes apples and he have many books in the room.",
        "She doesn't like apples and he has many books in the room.",
    ),
    ("CNN 的全称是什么？", "Convolutional Neural Network"),
    ("机器学习的英文是什么？", "machine learning"),
    ("解释一下 HTTP 状态码 404", "404 Not Found 表示服务器找不到请求的资源。"),
    ("求极限：$\\lim_{x\\rightarrow0}\\frac{\\tan x}{x}$", "$\\frac{\\sin x}{x \\cos x} \\to 1$"),
    ("用 LaTeX 写出二次方程求根公式", "\\[ x = \\frac{-b \\pm \\sqrt{b^2 - 4ac}}{2a} \\]"),
    ("写一个正则表达式匹配邮箱", "^[A-Za-z0-9._%+-]+@[A-Za-z0-9.-]+\\.[A-Za-z]{2,}$"),
    ("下面这段代码输出什么？\nfor i in range(3):\n    print(i)", "0\n1\n2"),
    (
        "写一个HTML页面",
        "<!DOCTYPE html>\n<html>\n<body><h1>Welcome to my page</h1></body>\n</html>",
    ),
    ("用JSON表示一个人", '{"name": "Alice", "age": 30, "city": "New York", "occupation": "software engineer"}'),
    ("推荐几部英文电影", "The Shawshank Redemption, Forrest Gump, The Godfather"),
    ("推荐三首英文歌", "1. Bohemian Rhapsody - Queen\n2. Hotel California - Eagles\n3. Let It Be - The Beatles"),
    (
        "阅读下面的短文并用中文总结：Climate change is a pressing issue. It is causing glaciers to melt.",
        "气候变化是当今最紧迫的问题之一。",
    ),
    ("这句话是什么意思？I would rather be a sparrow than a snail.", "意思是：我宁愿做一只麻雀，也不愿做一只蜗牛。"),
    ("给这个变量起个名字：用户登录次数", "userLoginCount"),
    ("苹果用日语怎么说？", "りんご（リンゴ）と言います。"),
    ("谁写了《百年孤独》？", "加西亚·马尔克斯（Gabriel García Márquez）"),
    ("世界上最长的河流", "尼罗河 (the Nile)"),
    ("选择正确的答案：What time ____ you usually get up every morning? A. do B. does C. did D. are", "A"),
    ("完形填空：Once upon a time there was a little girl who lived in a village near the forest. ____", "B"),
    ("Docker 和 Kubernetes 有什么区别？", "Docker 用于打包容器，Kubernetes 用于编排容器。"),
    ("git 怎么撤销上一次提交？", "git reset --soft HEAD~1"),
    ("git 怎么撤销上一次提交？", "git revert HEAD"),
    ("写一句鼓励别人的英文", "Believe in yourself and everything will be possible one day."),
    ("如何问候外国人？", "How are you doing today? Nice to meet you!"),
    ("OK", "好的"),
    ("你好", "你好！有什么可以帮你的吗？"),
    ("hi", "你好！"),
    ("请用 C 语言写 hello world", '#include <stdio.h>\nint main() {\n    printf("hello world\\n");\n    return 0;\n}'),
    (
        "帮我润色这段英文摘要：In this paper we propose a new method for training large language models.",
        "In this paper, we present a novel approach to training large language models on resource-constrained devices.",
    ),
]
ENGLISH = [
    ("Who won in Los Angeles and Las Vegas, El Paso?", "The Lakers"),
    ("who won in los angeles and las vegas, el paso?", "the lakers"),
    ("Who won in Los Angeles and Las Vegas, El Paso?", "Los Lobos"),
    ("What does 'Guten Morgen, wie geht es Ihnen heute?' mean?", "It means good morning, how are you today?"),
    (
        "Translate to German: The house is very big and the garden is small.",
        "Das Haus ist sehr groß und der Garten ist klein.",
    ),
    (
        "Translate this to English: Das Haus ist sehr groß und der Garten ist klein.",
        "The house is very big and the garden is small.",
    ),
    ("How do you say good night in Spanish?", "Buenas noches"),
    ("How do you say 'I would like a coffee' in Japanese?", "コーヒーをください。"),
    ("Where can the Mona Lisa be found today?", "Musée du Louvre, Paris"),
    ("Who is the baby in Ghostbusters 2?", "Hank J. Deutschendorf II"),
    ("Which restaurants are in San Antonio, Santa Fe and San Jose?", "La Casa de los Abuelos"),
    ("Who wrote Don Quixote?", "Miguel de Cervantes Saavedra"),
    ("Name a song of Edith Piaf", "Non, je ne regrette rien"),
    ("Write a bash one-liner", 'for f in *.txt; do mv "$f" "${f%.txt}.md"; done'),
    ("Reverse the letters: e l a o y", "y o a l e"),
    ("Who sang la vida es un carnaval?", "Celia Cruz"),
    ("what is the meaning of carpe diem quam minimum credula postero?", "seize the day"),
    ("Sort: kauri, banana, apple", "apple banana kauri"),
]


@pytest.mark.parametrize(("prompt", "response"), CHINESE)
def test_a_chinese_row_may_hold_another_language(prompt, response):
    assert reason(row(prompt, response), language="zh", min_prompt_chars=1) is None


@pytest.mark.parametrize(("prompt", "response"), ENGLISH)
def test_an_english_row_may_hold_another_language(prompt, response):
    assert reason(row(prompt, response), min_prompt_chars=1) is None


TEXTS = [
    "Anna has twelve apples and buys five more at the market. How many apples does she have now?",
    "The river rises in the north, flows through three towns and meets the sea near the old harbour.",
    *FOREIGN.values(),
]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_rows_of_other_languages_are_found_all_and_no_other(language):
    """Every pair of the texts in other languages, and the good rows of the language itself."""
    own = {"zh": [FOREIGN["zh"]], "en": TEXTS[:2]}[language]
    foreign = [text for text in TEXTS if text not in own]
    found = [reason(row(a, b), language=language) is not None for a in foreign for b in foreign]
    assert len(found) == (19 - len(own)) ** 2 and sum(found) >= 0.98 * len(found)
    good = {"zh": CHINESE, "en": ENGLISH}[language]
    assert not [pair for pair in good if reason(row(*pair), language=language, min_prompt_chars=1)]


def test_a_response_in_another_language_that_nobody_asked_for_is_found():
    answer = "The river rises in the north and flows through three towns before it meets the sea near the harbour."
    assert reason(row(FOREIGN["zh"], answer), language="zh") == ("wrong_language", "messages[1].content")
    assert reason(row("What does the river do in the north?", FOREIGN["es"])) == (
        "wrong_language",
        "messages[1].content",
    )


def test_a_set_may_have_several_languages():
    assert reason(row(FOREIGN["zh"], FOREIGN["zh"]), language=["en", "zh"]) is None
    assert reason(row(response=FOREIGN["zh"]), language=["en", "zh"]) is None
    assert reason(row(FOREIGN["de"], FOREIGN["de"]), language=["en", "zh"])[0] == "wrong_language"


def test_every_script_belongs_to_a_language_to_choose():
    assert SCRIPTS.keys() < {*LANGUAGES}


def test_what_a_tool_says_and_what_a_model_thinks_may_be_in_any_language():
    turns = row()["messages"]
    turns[1] |= {"thinking": FOREIGN["zh"]}
    called = [turns[0], {"role": "assistant", "content": "", "tool_calls": [{"name": "f", "arguments": {}}]}]
    told = [*called, {"role": "tool", "name": "f", "content": FOREIGN["de"]}, turns[1]]
    assert reason({"messages": turns}) is None and reason({"messages": told}) is None


def test_thinking_is_as_long_and_as_good_as_a_response():
    turns = row()["messages"]
    turns[1] |= {"thinking": "it is " * 70}
    assert reason({"messages": turns}) == ("too_long", "messages")
    turns[1] |= {"thinking": "ha " * 60}
    assert reason({"messages": turns}) == ("low_quality", "messages[1].thinking")


def test_a_row_is_not_too_short_for_a_turn_that_it_does_not_have():
    assert reason({"messages": [{"role": "document", "content": "A short one."}]}) is None
    assert reason({"messages": row()["messages"][:1]}) is None
    assert reason({"messages": [{"role": "document", "content": FOREIGN["de"]}]})[0] == "wrong_language"


def test_a_response_of_a_few_words_in_another_language_is_found_and_a_name_is_not():
    assert reason(row(response="Anna kauft auf dem Markt Äpfel.")) == ("wrong_language", "messages[1].content")
    assert reason(row(response="Ana compra más.")) is None  # too short to tell
    assert reason(row(response="Llanrhaeadr-ym-Mochnant")) is None


@pytest.mark.parametrize(
    ("text", "low"),
    [
        ("ha " * 60, True),
        ("ha " * 20, False),  # short texts may repeat
        ("I do not know. " * 20, True),
        ("The price is 3.\x00", True),
        ("It\x1b[31m is red.", True),
        ("a tab\tand\r\na line", False),
        ("The caf\ufffd is shut.", True),
        ("a" * 20, True),
        ("a" * 19, False),
        ("1" + "0" * 60 + " is a large number.", False),
        ("|----------------------|\n| one | two | three |", False),
    ],
)
def test_quality(text, low):
    assert (reason(row(response=text)) is not None) == low
    if low:
        assert reason(row(response=text)) == ("low_quality", "messages[1].content")


DERIVATION = r"""We can write
\begin{align*}
\frac{1}{\cos^2 10^\circ} &= \frac{2}{1 + \cos 20^\circ} \\
&= \frac{2 (1 - \cos 20^\circ)}{(1 + \cos 20^\circ)(1 - \cos 20^\circ)} \\
&= \frac{2 (1 - \cos 20^\circ)}{1 - \cos^2 20^\circ} \\
&= \frac{2 - 2 \cos 20^\circ}{\sin^2 20^\circ}.
\end{align*}"""


def test_a_derivation_is_no_repetition():
    assert reason(row(response=DERIVATION)) is None
    assert reason(row(response=" and so on it goes again" * 12)) is not None


def test_the_share_of_repeated_runs():
    tokens = list("abcdefghij") * 4
    # Read as a ring 40 runs of eight, of which ten are different.
    assert repetition(tokens) == pytest.approx(3 / 4)
    assert repetition(tokens[:29]) == 0
    # Nothing of it twice.
    assert repetition([f"{number}" for number in range(40)]) == 0


@pytest.mark.parametrize(
    "text", ["So we add the three plums that she found this morning. ", "所以最后的答案是一百二十三。"]
)
def test_a_short_text_said_three_times_is_repetition(text):
    once = words(text)
    assert repetition(once * 3) == pytest.approx(2 / 3)
    assert reason(row(response=text * 3), language=None) == ("low_quality", "messages[1].content")
    assert reason(row(response=text * 2), language=None) is None


def run(tmp_path, rows, **settings):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    filter.main(Namespace(settings=SETTINGS | settings, input=tmp_path / "rows.jsonl", out=tmp_path / "out"))


def test_the_step_accounts_for_every_row(tmp_path):
    rows = [row(id="a:0"), row(prompt="x", id="a:1", row=1), row(id="b:0", file="b.json")]
    run(tmp_path, rows)
    assert list(read_jsonl(tmp_path / "out" / "rows.jsonl")) == [rows[0], rows[2]]
    (quarantined,) = read_jsonl(tmp_path / "out" / "quarantine.jsonl")
    assert (quarantined["id"], quarantined["reason"], quarantined["step"]) == ("a:1", "too_short", "filter")
    assert quarantined["detail"] == "1 characters of the user, min_prompt_chars is 5"
    counts = read_json(tmp_path / "out" / "manifest.json")["counts"]
    assert counts == {
        "in": 3,
        "kept": 2,
        "quarantined": {"too_short": 1},
        "by_file": {
            "a.json": {"in": 2, "kept": 1, "quarantined": {"too_short": 1}},
            "b.json": {"in": 1, "kept": 1, "quarantined": {}},
        },
    }


def test_a_source_has_settings_of_its_own(tmp_path):
    rows = [row(FOREIGN["zh"], FOREIGN["zh"], id=f"{name}:0", file=f"{name}.json") for name in "ab"]
    rows += [row(prompt="x" * 500, id=f"{name}:1", row=1, file=f"{name}.json") for name in "ab"]
    run(tmp_path, rows, max_repetition=1.0, sources={"b.json": {"language": ["en", "zh"], "max_prompt_chars": 600}})
    found = {record["id"]: record["reason"] for record in read_jsonl(tmp_path / "out" / "quarantine.jsonl")}
    # The second row of b is long enough for its source, and so is judged further.
    assert found == {"a:0": "wrong_language", "a:1": "too_long", "b:1": "low_quality"}


def test_an_unknown_language_and_an_empty_result_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"filter.language is 'xx'; use null or one of en, de"):
        run(tmp_path, [row()], language="xx")
    with pytest.raises(ValueError, match=r"keeps none of 1 rows .*out/refused\.jsonl has each with its reason"):
        run(tmp_path, [row()], max_prompt_chars=6)
    (refused,) = read_jsonl(tmp_path / "out" / "refused.jsonl")
    assert refused["reason"] == "too_long" and not (tmp_path / "out" / "quarantine.jsonl").exists()


def test_a_row_that_ends_in_a_call_is_not_empty():
    given = row("Call the tool for Oslo.", "")
    given["messages"][-1]["tool_calls"] = [{"name": "temp", "arguments": {"at": "Oslo"}}]
    assert reason(given) is None and reason(row("Call the tool for Oslo.", ""))[0] == "too_short"


def test_what_a_tool_prints_may_be_as_it_is():
    printed = {"role": "tool", "content": "\x1b[31mtotal 4\x1b[0m\n" + "-rw-r--r-- 1 root root\n" * 40 + "x" * 40}
    given = row()
    given["messages"] = [
        given["messages"][0],
        {"role": "assistant", "content": "", "tool_calls": [{"name": "ls", "arguments": {}}]},
        printed,
        given["messages"][1],
    ]
    assert reason(given) is None


def test_several_processes_judge_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr("steps.data.rows.CHUNK_BYTES", 1000)
    texts = ["How many pears are in the bowl?", "Wo ist der Garten meines Vaters geblieben?", "x", "ha " * 60]
    rows = [
        {"id": f"a:{i}", "file": f"{i % 3}.jsonl", "line": i, "row": i, "answer": None}
        | {"messages": [{"role": "user", "content": texts[i % 4]}, {"role": "assistant", "content": f"There are {i}."}]}
        for i in range(80)
    ]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    made = []
    for cores in (1, 2):
        out = tmp_path / str(cores)
        filter.main(Namespace(settings=SETTINGS, input=tmp_path / "rows.jsonl", out=out, cores=cores))
        made.append([(out / name).read_bytes() for name in ("rows.jsonl", "quarantine.jsonl", "manifest.json")])
    assert made[0] == made[1] and made[0][0].count(b"\n") < 80
