import copy
import pickle
from functools import partialmethod

import pytest
import torch
from torch import nn

from retrain.training.compiling import compile_network, is_compiled

pytestmark = pytest.mark.usefixtures("counted")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """Shapes that something was compiled for; what is compiled runs as it is."""
    shapes: list[list[int]] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> torch.fx.GraphModule:
        shapes.extend(list(one.shape) for one in inputs if one.dim() == 4 and one.shape[1] == 3)
        return graph

    monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
    return shapes


def network() -> nn.Module:
    return nn.Sequential(nn.AvgPool2d(2), nn.ReLU())


def test_each_size_of_a_batch_has_code_of_its_own(counted: list[list[int]]) -> None:
    compiled = network()
    compile_network(compiled)
    for images in (4, 4, 2, 4, 2, 3):
        compiled(torch.zeros(images, 3, 8, 8))
    assert counted == [[4, 3, 8, 8], [2, 3, 8, 8], [3, 3, 8, 8]]


def test_any_number_of_trainings_in_one_process_is_compiled(counted: list[list[int]]) -> None:
    for images in range(1, 21):
        compiled = network()
        compile_network(compiled)
        compiled(torch.zeros(images, 3, 8, 8))
    assert len(counted) == 20


def test_copies_and_what_is_stored_are_plain() -> None:
    compiled = network()
    compile_network(compiled)
    assert is_compiled(compiled)
    assert not is_compiled(copy.deepcopy(compiled))
    assert not is_compiled(pickle.loads(pickle.dumps(compiled)))
    assert list(compiled.state_dict()) == list(network().state_dict())


def test_a_network_that_is_not_captured_as_a_whole_is_refused() -> None:
    class Odd(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            torch._dynamo.graph_break()
            return images

    compiled = Odd()
    compile_network(compiled)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        compiled(torch.zeros(1, 3, 8, 8))
