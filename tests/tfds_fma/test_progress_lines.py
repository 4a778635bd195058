from tfds_fma import progress


def test_lines_where_there_is_no_terminal(capsys):
    now = iter([0, 5, 16, 20, 31, 60])
    bar = progress.ProgressLines("demo corpus", 1009, "clips", initial=9, clock=lambda: next(now))
    with bar:
        for _ in range(5):
            bar.update(200)
    assert capsys.readouterr().err.splitlines() == [
        "demo corpus: 409 of 1,009 clips (41%), about 24 s left",
        "demo corpus: 809 of 1,009 clips (80%), about 8 s left",
    ]


def test_bytes_are_written_as_mebibytes(capsys):
    now = iter([0, 20])
    progress.ProgressLines("fma_small.zip", 7 << 30, "B", clock=lambda: next(now)).update(1 << 30)
    assert capsys.readouterr().err == "fma_small.zip: 1,024 of 7,168 MiB (14%), about 120 s left\n"


def test_a_bar_on_a_terminal_and_nothing_where_it_is_not_wanted(monkeypatch, capsys):
    with progress.progress_bar("x", 3, "clips", show=False) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with progress.progress_bar("reading", 3, "clips") as bar:
        bar.update(3)
    assert "reading: 100%" in capsys.readouterr().err
