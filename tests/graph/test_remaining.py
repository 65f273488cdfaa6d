"""How long a run still takes: from earlier benchmarks and from this run, and never from nothing."""

from steps.graph.remaining import Remaining, seconds_of


def jobs(tmp_path, *known) -> Remaining:
    """(rule, seconds of an earlier run or None) each, numbered from 1."""
    listed = []
    for number, (rule, seconds) in enumerate(known, 1):
        file = tmp_path / f"{number}.tsv"
        if seconds is not None:
            file.write_text(f"s\th:m:s\tmax_rss\n{seconds}\t0:00:00\t1.0\n")
        listed.append((number, rule, str(file)))
    return Remaining([*listed, (99, "all", None)])


def test_what_took_so_long_before_is_expected_to_again(tmp_path):
    run = jobs(tmp_path, ("sft", 100.0), ("sft", None), ("rl", 300.0), ("merge", None))
    # The second training as the first, the merge is unknown: 100 + 100 + 300 one after the other.
    assert run.left({}, 0.0) == (500.0, 1)
    assert run.text({}, 0.0) == "about 8:20 left, and 1 job of unknown length"


def test_a_job_that_runs_has_less_left_and_never_less_than_nothing(tmp_path):
    run = jobs(tmp_path, ("sft", 100.0), ("rl", 300.0))
    assert run.left({1: 40.0}, 40.0) == (360.0, 0)
    assert run.left({1: 150.0}, 150.0) == (300.0, 0)


def test_this_run_tells_of_the_others_of_a_rule(tmp_path):
    run = jobs(tmp_path, ("sft", None), ("sft", None), ("sft", None), ("sft", None))
    assert run.left({}, 0.0) == (0.0, 4) and run.text({}, 0.0) == ""
    for job, seconds in ((1, 10.0), (2, 30.0)):
        run.finish(job, seconds)
    assert run.expected(3) == 20.0
    # 40 s of work in 20 s: two at once, and so 2 · 20 s of work take 20 s.
    assert run.left({}, 20.0) == (20.0, 0)


def test_no_job_is_shorter_than_itself(tmp_path):
    run = jobs(tmp_path, ("rl", 600.0), ("sft", 10.0), ("sft", 10.0))
    # Three at once: (600 + 10 + 10) / 3 would end before the longest.
    assert run.left({1: 0.0, 2: 0.0, 3: 0.0}, 0.0) == (600.0, 0)


def test_what_ended_leaves_nothing(tmp_path):
    run = jobs(tmp_path, ("rl", 600.0))
    run.finish(1, 5.0)
    run.finish(99, 5.0)
    assert run.left({}, 5.0) == (0.0, 0) and run.text({}, 5.0) == ""


def test_hours_are_written_out(tmp_path):
    assert jobs(tmp_path, ("rl", 5025.0)).text({}, 0.0) == "about 1:23:45 left"


def test_a_benchmark_that_cannot_be_read_is_none(tmp_path):
    file = tmp_path / "x.tsv"
    assert seconds_of(file) is None
    for text in ("", "s\th:m:s\n", "time\n1\n", "s\nNA\n"):
        file.write_text(text)
        assert seconds_of(file) is None
