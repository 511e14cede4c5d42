from retrain.training.result import EpochReport

STORED = {
    "epoch": 1,
    "epochs": 2,
    "losses": {"box_loss": 1.5},
    "map50": 0.5,
    "map50_95": 0.25,
    "precision": 0.5,
    "recall": 0.5,
    "lr": 0.001,
    "seconds": 2.0,
    "images_per_s": 9.0,
    "eta_s": 2.0,
}
"""As reports were before there were slices."""


def test_reports_of_before_there_were_slices_are_read():
    report = EpochReport.from_json(STORED)
    assert (report.slices, report.regressions) == ({}, ())
    assert EpochReport.from_json(report.to_json()) == report
