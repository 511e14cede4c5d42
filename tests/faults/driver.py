"""Runs one cycle in its own process and kills it with SIGKILL at a named point; part of the tests, not of Retrain.

    python driver.py <trigger id> <kill point or "none">

Points: `done:<stage>` (its effect is there, its record is not), `recorded:<stage>`, `training` (after the first
epoch's checkpoint), `released` (release published, not registered), `routed` (route switched, alias not moved),
`crowned` (alias moved, ledger not written).
"""

import os
import signal
import sys

import tasks.evaluation
import tasks.training
from flows.continuous_retraining import continuous_retraining_flow
from retrain.cycle import Cycle
from retrain.evaluation.gate import GateDecision
from retrain.mlflow_integration.registry import ModelRegistry


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def at(point, function, *, before=False):
    """`function`, with a SIGKILL before or after it if `point` is the chosen one."""

    def wrapped(*arguments, **options):
        if before and chosen == point:
            die()
        result = function(*arguments, **options)
        if not before and chosen == point:
            die()
        return result

    return wrapped


def arm():
    original = Cycle.stage

    def stage(self, name, inputs, work):
        result = original(self, name, inputs, at(f"done:{name}", work))
        if chosen == f"recorded:{name}":
            die()
        return result

    Cycle.stage = stage
    progress = tasks.training._Progress
    progress.__call__ = at("training", progress.__call__)
    ModelRegistry.register = at("released", ModelRegistry.register, before=True)
    move = ModelRegistry.move_alias
    ModelRegistry.move_alias = at("crowned", at("routed", move, before=True))
    # A two-epoch model on sixteen images learns nothing; these tests are about effects, not about the gate.
    tasks.evaluation.decide = lambda *_: GateDecision("better", True, ("forced by the fault test",))


if __name__ == "__main__":
    trigger, chosen = sys.argv[1:]
    arm()
    state = continuous_retraining_flow(trigger, return_state=True)
    print(f"{state.name}: {state.message}")
    sys.exit(0 if state.is_completed() else 3)
