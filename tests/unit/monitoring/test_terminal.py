import dataclasses
import io

from rich.console import Console

from retrain.monitoring.terminal import terminal_summary


def printed(report, width=120) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    console.print(terminal_summary(report))
    return console.file.getvalue()


def test_the_table_holds_the_final_numbers(report):
    text = printed(report)

    for said in (
        "v2 replaced v1",
        "0.613",
        "0.934",
        "+0.321 [+0.281, +0.362]",
        "better",
        "inconclusive",
    ):
        assert said in text
    for said in (
        "512 images, 131 by hand",
        "1 min 53 s",
        "4 min 51 s",
        report.serving_digest,
        "All 12 stages read",
    ):
        assert said in text


def test_missing_parts_say_not_measured(report):
    text = printed(
        dataclasses.replace(
            report, scores=(), labels=None, reaction=(), ledger=None, serving_digest=None, after=None
        )
    )

    assert text.count("not measured") == 4
    assert "0.000" not in text


def test_square_brackets_in_names_are_printed_as_they_are(report):
    text = printed(dataclasses.replace(report, model="[bold]digits[/bold]", reason="see [/nowhere]"))

    assert "[bold]digits[/bold]" in text
    assert "see [/nowhere]" in text
