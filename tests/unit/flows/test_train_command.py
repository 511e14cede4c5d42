"""What `retrain train` says when it is interrupted."""

from types import SimpleNamespace

import pytest
import typer
from rich.console import Console

from flows import own_server, train_command
from retrain.errors import NotFound

JOB = "0123456789abcdef"


@pytest.fixture
def interrupted(monkeypatch, capsys):
    """The sentence, where the job had these checkpoints, or None when it was not begun."""

    def train(checkpoints):
        def get(_, job_id):
            if checkpoints is None:
                raise NotFound(f"There is no training job {job_id}.")
            return SimpleNamespace(id=job_id, checkpoints=checkpoints)

        def flow(*_, **__):
            raise KeyboardInterrupt

        orchestrator = SimpleNamespace(job_id=lambda _: JOB)
        monkeypatch.setattr("retrain.training.jobs.TrainingJobs.get", get)
        monkeypatch.setattr("flows.training.training_flow", flow)
        monkeypatch.setattr(own_server, "_start_server", lambda: None)
        monkeypatch.setattr(train_command, "orchestrator_for", lambda *_: (orchestrator, None))
        monkeypatch.setattr(train_command, "jobs_folder", lambda _: "jobs")
        monkeypatch.setattr(train_command, "follow", lambda *_: None)
        with pytest.raises(typer.Exit) as end:
            train_command.train(SimpleNamespace(config=None), {}, Console(), resume=False)
        assert end.value.exit_code == 130
        return capsys.readouterr().err

    return train


def test_ctrl_c_after_a_checkpoint_says_that_the_training_goes_on(interrupted):
    assert interrupted(["epoch-00001.ckpt"]) == (
        "Interrupted; the same command again goes on with job 01234567 from its last checkpoint.\n"
    )


@pytest.mark.parametrize("checkpoints", [[], None])
def test_ctrl_c_before_the_first_checkpoint_says_that_it_begins_again(interrupted, checkpoints):
    assert interrupted(checkpoints) == (
        "Interrupted; job 01234567 has no checkpoint yet, so the same command begins it again.\n"
    )
