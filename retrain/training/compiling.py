"""A network that torch compiles for the machine it trains on, in place.

Names of weights, copies such as the moving average, and all that is stored stay those of the plain network.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from retrain.errors import ConfigError
from retrain.training.preflight_report import Check

_OFF = "set compile to false"


def compile_network(network: nn.Module) -> None:
    """Let calls of the network run compiled; that happens in the first of them, and again for each size of a batch."""
    # Else the trainings of one process together use up the few sizes that torch compiles one piece of code for.
    torch.compiler.reset()
    # One piece of code per size: a kind that fits all would take over after the first smaller batch, also for the
    # whole ones, so that the bits would tell where a training was resumed. And what torch cannot compile is an error,
    # never silently left as it is.
    network.compile(dynamic=False, fullgraph=True)


def is_compiled(network: nn.Module) -> bool:
    """Whether calls of it run compiled."""
    return network._compiled_call_impl is not None


def require_compiler(device: str) -> None:
    """See whether there is what torch compiles with.

    Raises:
        ConfigError: there is not.
    """
    if device == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError(
                "compile needs Triton and a GPU that it supports (compute capability 7.0 or newer); install triton, "
                f"or {_OFF}."
            )
    # Triton, too, starts its kernels by code that is compiled here.
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler as error:
        raise ConfigError(
            f"compile needs a C++ compiler, and there is none; install g++, name yours by CXX, or {_OFF}."
        ) from error


def check_compiler(device: str) -> Check:
    """The same before a training."""
    try:
        require_compiler(device)
    except ConfigError as error:
        return Check("compile", False, str(error), {})
    return Check("compile", True, "Compiling takes up to minutes, which the expected time leaves out.", {})


@contextmanager
def compile_errors() -> Iterator[None]:
    """What torch cannot compile becomes `ConfigError`."""
    from torch._dynamo.exc import TorchDynamoException

    try:
        yield
    except TorchDynamoException as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        # Among them may be a command of thousands of characters.
        said = next((line for line in lines if " error:" in line), " ".join(lines[:2]))
        raise ConfigError(f"torch cannot compile the network here ({said}); {_OFF}.") from error
