import dataclasses
import re
from html.parser import HTMLParser

import pytest

from retrain.errors import PostConditionFailed
from retrain.monitoring import page
from retrain.monitoring.page import publish, render_html
from retrain.monitoring.report import LabelCounts, Link, LoopReport
from retrain.storage.local_blobs import LocalBlobs

SECTIONS = [
    "summary", "scores", "incident", "frames", "cameras", "training",
    "labels", "timeline", "dataset", "ledger", "links", "system",
]  # fmt: skip
VOID = {"meta", "link", "img", "input", "br"}


class Balance(HTMLParser):
    """Fails on a tag that closes another one; collects ids and texts."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def parse(html: str) -> Balance:
    parser = Balance()
    parser.feed(html)
    parser.close()
    assert parser.open == []
    return parser


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", " ".join(parse(html).texts))


def bare(report: LoopReport) -> LoopReport:
    """The same run with nothing measured that may be missing."""
    return dataclasses.replace(
        report, after=None, outcome="kept_champion", serving_digest=None, scores=(), incident=None,
        frame_pairs=(), cameras=(), training=(), labels=None, stages=(), reaction=(),
        dataset=None, ledger=None, links=(), system=None,
    )  # fmt: skip


def test_every_section_is_there_once_and_every_tag_is_closed(report):
    parsed = parse(render_html(report))

    assert [name for name in parsed.ids if name in SECTIONS] == SECTIONS
    assert len(parsed.ids) == len(set(parsed.ids))


def test_the_numbers_of_the_report_are_on_the_page(report):
    text = text_of(render_html(report))

    for said in (
        "v2 replaced v1",
        "On drifted cameras, mAP50 rose from 0.613 to 0.934.",
        "+0.281 to +0.362",
        "no proven difference",
        "180 images, 12 recordings",
        report.before.digest,
        report.serving_digest,
        "1 min 53 s",
        "131 reviewed by hand",
        "28 not in this cycle",
        "2 right, 1 wrong, 2 missed",
        "read back: tag v1.1.0 at commit abc8123",
        "retrain.samples.threshold-crossed",
        "+460",
        "unchanged",
        "177 → 323",
        "Chain verified",
        "torch 2.9.0",
        "1.4 GB",
    ):
        assert said in text.replace("\u00a0", " "), said


def test_what_is_missing_says_not_measured_in_every_section(report):
    html = render_html(bare(report))

    for name in SECTIONS:
        part = re.search(rf'<(section|header) id="{name}">.*?</\1>', html, re.DOTALL)
        assert part is not None, name
        assert "not measured" in part[0], name
    assert "0.000" not in html
    assert parse(html).ids == SECTIONS


def test_single_missing_values_say_not_measured(report):
    scores = report.scores[0]
    blank = dataclasses.replace(scores.map50, before=None, difference=None, verdict=None)
    system = dataclasses.replace(report.system, cpu=None, peak_rss_bytes=None)
    html = render_html(
        dataclasses.replace(
            report, scores=(dataclasses.replace(scores, map50=blank, images=None),), system=system
        )
    )

    text = text_of(html)
    assert "not measured images" in text
    assert "the largest process used not measured" in text
    assert "the change in mAP50 was not measured (known: 0.934)" in text


def test_a_page_can_be_drawn_again_from_the_saved_json(report):
    assert render_html(LoopReport.from_json(report.to_json())) == render_html(report)


EVIL = "<script>alert(1)</script>\"'&"


def test_whatever_comes_from_outside_is_escaped(report):
    hostile = dataclasses.replace(
        report,
        model=EVIL,
        reason=EVIL,
        opening=f"`{EVIL}`",
        classes=(EVIL,) * 10,
        before=dataclasses.replace(report.before, label=EVIL, digest=EVIL, dataset=EVIL),
        scores=(dataclasses.replace(report.scores[0], title=EVIL),),
        incident=dataclasses.replace(
            report.incident, metric=EVIL, x_title=EVIL,
            cameras=(dataclasses.replace(report.incident.cameras[0], camera=EVIL, drift=EVIL),),
        ),
        frame_pairs=(dataclasses.replace(report.frame_pairs[0], camera=EVIL, caption=EVIL),),
        cameras=(dataclasses.replace(report.cameras[0], camera=EVIL, drift=EVIL),),
        training=(dataclasses.replace(report.training[0], title=EVIL),),
        stages=(dataclasses.replace(report.stages[0], name=EVIL, process=EVIL, proof=EVIL),),
        reaction=(dataclasses.replace(report.reaction[0], title=EVIL, proof=EVIL),),
        dataset=dataclasses.replace(report.dataset, before=EVIL, proof=EVIL),
        ledger=dataclasses.replace(
            report.ledger, check=EVIL,
            entries=(dataclasses.replace(report.ledger.entries[0], summary=EVIL, kind=EVIL),),
        ),
        links=(Link(EVIL, EVIL, EVIL), Link(EVIL, EVIL, f"http://127.0.0.1/{EVIL}")),
        system=dataclasses.replace(report.system, platform=EVIL, cpu=EVIL, versions={EVIL: EVIL}),
    )  # fmt: skip

    html = render_html(hostile)

    assert "<script" not in html
    assert html.count("&lt;script&gt;") > 30
    parse(html)


@pytest.mark.parametrize(
    "target", ["javascript:alert(1)", "data:text/html,x", "git diff v1 v2", "/var/report", "mailto:x@y"]
)
def test_only_addresses_become_links(report, target):
    html = render_html(dataclasses.replace(report, links=(Link("g", "t", target),)))

    assert f'href="{target}"' not in html
    assert f"<code>{target}</code>" in html


def test_nothing_is_loaded_from_anywhere(report):
    html = render_html(dataclasses.replace(report, links=()))

    loads = re.findall(r'(?:src|href|srcset|action|data|poster)="([^"]*)"', html) + re.findall(
        r"url\(([^)]*)\)", html
    )
    assert loads
    assert [load[:40] for load in loads if not load.startswith(("data:", "#"))] == []
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_detections_below_the_drawn_confidence_are_left_out(report):
    few = render_html(report)
    all_drawn = render_html(dataclasses.replace(report, drawn_confidence=0.05))

    assert "2 right, 2 wrong, 2 missed" in all_drawn
    assert "2 right, 2 wrong, 2 missed" not in few


def test_a_broken_chain_and_an_unproven_stage_stand_out(report):
    html = render_html(
        dataclasses.replace(
            report,
            ledger=dataclasses.replace(report.ledger, verified=False, check="hash 2 differs"),
            stages=(dataclasses.replace(report.stages[0], proof=None),),
        )
    )

    assert '<b class="bad">Chain broken</b>: hash 2 differs' in html
    assert "nothing was read back" in html
    assert "1 of 1 stages did not read their effect back." in html


def test_label_shares_add_up_to_all_collected():
    ways = page.shares(LabelCounts(collected=8, auto=4, human=2, left_out=0))

    assert [(way[1], way[2], way[3]) for way in ways] == [
        ("auto-labelled", 4, 50.0),
        ("reviewed by hand", 2, 25.0),
        ("not in this cycle", 2, 25.0),
    ]
    assert page.shares(LabelCounts(0, 0, 0, 0)) == []


def test_publish_stores_the_json_and_the_page(report, tmp_path):
    publish(report, LocalBlobs(tmp_path), "runs/7/report")

    assert (tmp_path / "runs/7/report.html").read_text() == render_html(report)
    assert LoopReport.from_json((tmp_path / "runs/7/report.json").read_text()).model == "digits"


def test_publish_does_not_believe_a_store_that_lost_bytes(report, tmp_path):
    class Forgetful(LocalBlobs):
        def get(self, key: str) -> bytes:
            return super().get(key)[:-1]

    with pytest.raises(PostConditionFailed, match=r"report\.json"):
        publish(report, Forgetful(tmp_path), "report")
