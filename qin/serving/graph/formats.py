"""The graph in the formats of other runtimes: ONNX, PyTorch's exported program, and machine code by AOTInductor."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from qin.runtime.errors import ConfigError
from qin.serving.graph.whole import WholeModel

OPSET = 20  # in signature.json, as a runtime must know it
OUTPUTS = ("probability", "logit", "buckets")
_MOST_ROWS, _MOST_TOKENS = 1 << 20, 1 << 20  # the exporter wants bounds


def export_onnx(model: WholeModel, inputs: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write ONNX, whose bytes depend neither on the folder nor on the process.

    Raises:
        ConfigError: If the optional packages are missing.
    """
    onnx = _optional("onnx")
    _optional("onnxscript")
    program = torch.onnx.export(
        model,
        tuple(inputs.values()),
        dynamo=True,
        input_names=list(inputs),
        output_names=list(OUTPUTS),
        dynamic_shapes=(_dynamic(inputs),),
        opset_version=OPSET,
        verbose=False,
    )
    assert program is not None  # as it is with the older exporter alone
    proto: Any = program.model_proto
    for nodes in (proto.graph.node, *(function.node for function in proto.functions)):
        for node in nodes:  # where each came from, with paths of this machine
            del node.metadata_props[:]
            node.ClearField("doc_string")
    for part in (proto, proto.graph, *proto.graph.value_info, *proto.graph.initializer, *proto.functions):
        del part.metadata_props[:]
    for value in (*proto.graph.input, *proto.graph.output):
        del value.metadata_props[:]
    onnx.checker.check_model(proto)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def export_pt2(model: WholeModel, inputs: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write PyTorch's exported program, for `torch.export.load`."""
    torch.export.save(_exported(model, inputs), path)


def export_aoti(model: WholeModel, inputs: Mapping[str, torch.Tensor], path: Path) -> None:
    """Write machine code for this processor and this PyTorch, for `torch._inductor.aoti_load_package` and C++.

    Raises:
        ConfigError: If there is no C++ compiler.
    """
    inductor, builder = import_module("torch._inductor"), import_module("torch._inductor.cpp_builder")
    try:
        builder.get_cpp_compiler()
    except import_module("torch._inductor.exc").InvalidCxxCompiler as error:
        raise ConfigError("export needs a C++ compiler for aoti: install g++ or clang++, or name one in CXX") from error
    inductor.aoti_compile_and_package(_exported(model, inputs), package_path=str(path))


FORMATS: dict[str, tuple[str, Callable[[WholeModel, Mapping[str, torch.Tensor], Path], None]]] = {
    "onnx": ("model.onnx", export_onnx),
    "pt2": ("model.pt2", export_pt2),
    "aoti": ("model.aoti.pt2", export_aoti),
}


def run(kind: str, path: Path, names: Sequence[str], feeds: Mapping[str, Any]) -> list[Any]:
    """Run an exported model as its user would; returns the arrays of `OUTPUTS`."""
    if kind == "onnx":
        runtime = _optional("onnxruntime")
        session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        found: list[Any] = session.run(list(OUTPUTS), {name: feeds[name] for name in names})
        return found
    tensors = [torch.from_numpy(feeds[name]) for name in names]
    if kind == "pt2":
        outputs = torch.export.load(path).module()(*tensors)
    else:
        outputs = import_module("torch._inductor").aoti_load_package(str(path))(*tensors)
    return [output.detach().numpy() for output in outputs]


def _exported(model: WholeModel, inputs: Mapping[str, torch.Tensor]) -> torch.export.ExportedProgram:
    return torch.export.export(model, tuple(inputs.values()), dynamic_shapes=(_dynamic(inputs),), strict=False)


def _dynamic(inputs: Mapping[str, torch.Tensor]) -> tuple[dict[int, Any], ...]:
    """Any number of rows, and of tokens in each history."""
    rows = torch.export.Dim("rows", min=1, max=_MOST_ROWS)
    shapes: list[dict[int, Any]] = []
    tokens: Any = None
    for number, (name, tensor) in enumerate(inputs.items()):
        shape: dict[int, Any] = {0: rows}
        if name.startswith("sequence.") and tensor.dim() == 2:
            # A history and what is missing of it have one width, so they share a name of it.
            if not name.endswith(".is_null"):
                tokens = torch.export.Dim(f"tokens{number}", min=1, max=_MOST_TOKENS)
            shape[1] = tokens
        shapes.append(shape)
    return tuple(shapes)


def _optional(name: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"export needs the package {name}: pip install 'qin-ctr[export]'") from error
