"""What a person sees of a run: the running step's last line, a failure's cause."""

from steps import display
from steps.common import Progress


def test_the_last_progress_line_is_found_among_other_output(tmp_path, capsys):
    progress = Progress("sft", 300, "step", every=0)
    progress.update(120, loss=0.5217)
    line = capsys.readouterr().out.strip()
    log = tmp_path / "x.log"
    log.write_text(f"sft: step 1/300  loss 2  1 step/s\n{line}\nWarning: something else\n\rLoading: 100%|####| 3/3\r")
    assert display.last_progress([str(log)]) == line
    assert "120/300" in line and "loss 0.5217" in line and "left" in line


def test_no_progress_line_yet(tmp_path):
    assert display.last_progress([str(tmp_path / "none.log")]) is None


def test_a_users_mistake_shows_as_its_line(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("noise\ntemper: error: data.csv, row 3: no answer; add one\n")
    assert display.failure("ingest problems", [log]) == [
        f"ingest problems failed: data.csv, row 3: no answer; add one (log: {log})"
    ]


def test_a_defect_shows_the_end_of_its_log_and_where_the_rest_is(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("".join(f"line {i}\n" for i in range(100)))
    shown = display.failure("sft foundation sft", [log])
    assert str(log) in shown[0]
    assert shown[1:] == [f"  line {i}" for i in range(80, 100)]


def test_only_the_end_of_a_large_log_is_read(tmp_path):
    log = tmp_path / "x.log"
    log.write_text("x\n" * 5_000_000 + "the end\n")
    assert display.tail(log)[-1] == "the end" and len(display.tail(log)) < 10_000
