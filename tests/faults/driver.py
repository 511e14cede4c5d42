"""Runs cycles, each in a process of its own, and kills it with SIGKILL at a named point; part of the tests.

Importing torch, Prefect and MLflow takes longer than a whole tiny cycle, so one parent imports them and forks a
child per cycle. Commands are JSON lines on standard input: {"start": trigger, "point": …, "environment": …,
"output": file} answers {"pid": …}; {"wait": pid} answers {"code": …}, negative for a signal as in subprocess.

Points: `done:<stage>` (its effect is there, its record is not), `recorded:<stage>`, `training` (after the first
epoch's checkpoint), `released` (release published, not registered), `routed` (route switched, alias not moved),
`crowned` (alias moved, ledger not written).
`undrawable` kills nothing: the page of the evaluation cannot be drawn.
"""

import json
import os
import signal
import sys
import traceback

import tasks.evaluation
import tasks.thresholds
import tasks.training
from flows.continuous_retraining import continuous_retraining_flow
from retrain.cycle import Cycle
from retrain.evaluation.gate import GateDecision
from retrain.mlflow_integration.registry import ModelRegistry

FEWEST = 4
"""Objects for a threshold of its own: of each class, val has six."""


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at(chosen, point, function, *, before=False):
    """`function`, with a SIGKILL before or after it if `point` is the chosen one."""

    def wrapped(*arguments, **options):
        if before and chosen == point:
            die()
        result = function(*arguments, **options)
        if not before and chosen == point:
            die()
        return result

    return wrapped


def arm(chosen):
    original = Cycle.stage

    def stage(self, name, inputs, work):
        result = original(self, name, inputs, at(chosen, f"done:{name}", work))
        if chosen == f"recorded:{name}":
            die()
        return result

    Cycle.stage = stage
    tracked = tasks.training.TrackedTraining
    tracked.epoch = at(chosen, "training", tracked.epoch)
    ModelRegistry.register = at(chosen, "released", ModelRegistry.register, before=True)
    move = ModelRegistry.move_alias

    def move_alias(self, model, alias, **options):
        if (chosen, alias) == ("routed", "champion"):
            die()
        result = move(self, model, alias, **options)
        if (chosen, alias) == ("crowned", "champion"):
            die()
        return result

    ModelRegistry.move_alias = move_alias
    if chosen == "undrawable":
        from retrain.evaluation.report.page import ReportPage

        def html(self, pixels):
            raise ValueError("no glyph for it")

        ReportPage.html = html
    tasks.thresholds.FEWEST = FEWEST
    # A two-epoch model on sixteen images learns nothing; these tests are about effects, not about the gate.
    tasks.evaluation.decide = lambda *_: GateDecision("better", True, ("forced by the fault test",))


def run(trigger, point, environment, output):
    """The child: never returns."""
    os.environ.update(environment)
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    arm(point)
    try:
        state = continuous_retraining_flow(trigger, return_state=True)
        print(f"{state.name}: {state.message}", flush=True)
        code = 0 if state.is_completed() else 3
    except BaseException:
        traceback.print_exc()
        code = 4
    sys.stdout.flush()
    os._exit(code)


def main():
    for line in sys.stdin:
        command = json.loads(line)
        if "wait" in command:
            answer = {"code": os.waitstatus_to_exitcode(os.waitpid(command["wait"], 0)[1])}
        else:
            pid = os.fork()
            if pid == 0:
                run(command["start"], command["point"], command["environment"], command["output"])
            answer = {"pid": pid}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
