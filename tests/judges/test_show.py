"""What was judged, as a person looks at it."""

import pytest

from steps.core.files import write_jsonl
from steps.judges import show

VERDICTS = [
    {"id": f"a:{i}", "sample": 0, "gold": "3", "read": read, "outcome": outcome, "why": why, "end": end}
    for i, (read, outcome, why, end) in enumerate(
        [
            ("3", "right", "the same text", "1 + 2 = 3\n#### 3"),
            ("4", "wrong", "another number", "#### 4"),
            ("5", "wrong", "another number", "so\nit\nis\n#### 5"),
            ("", "unread", "there is no mark", "th\x1b[31mree"),
        ]
    )
]


def test_counts_come_first_and_examples_are_from_all_over():
    said = show.lines(VERDICTS, each=1)
    assert said[:3] == [
        "       2  wrong: another number",
        "       1  right: the same text",
        "       1  unread: there is no mark",
    ]
    assert said[3:6] == ["", "wrong: another number", "  a:1  asked '3'  read '4'  … #### 4"]
    assert said[-1] == "  a:3  asked '3'  read ''  … th⟨U+001B⟩[31mree"
    assert "  a:2  asked '3'  read '5'  … it / is / #### 5" in show.lines(VERDICTS, each=2)


def test_a_folder_without_verdicts_is_one_line(tmp_path, capsys):
    given = show.argparse.Namespace(folder=tmp_path, outcome=["ambiguous"], each=5)
    with pytest.raises(ValueError, match="there is no such file; name a folder of the step difficulty or bucket"):
        show.main(given)
    write_jsonl(tmp_path / "verdicts.jsonl", VERDICTS)
    with pytest.raises(ValueError, match="no verdict is ambiguous"):
        show.main(given)
    given.outcome = ["unread"]
    show.main(given)
    assert capsys.readouterr().out.splitlines()[0] == "       1  unread: there is no mark"
