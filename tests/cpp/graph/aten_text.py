"""Records what a function does, at the ATen level, as the text of a framejit graph: real input for tests."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def type_text(tensor, storages):
    text = f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"
    if tensor.stride() != torch.empty(tensor.shape, device="meta").stride():
        text += f" strides={list(tensor.stride())}"
    if tensor.storage_offset():
        text += f" offset={tensor.storage_offset()}"
    storage = tensor.untyped_storage()
    return f"{text} @{storages.setdefault(storage._cdata, (len(storages), storage))[0]}"


class Recorder(TorchDispatchMode):
    def __init__(self, inputs):
        super().__init__()
        self.storages = {}
        self.ids = {}  # id(tensor) -> (number, tensor), which keeps the tensor alive
        self.head = [f"input {self.define(tensor)}" for tensor in inputs]
        self.constants = []
        self.nodes = []

    def number(self, tensor):
        return self.ids.setdefault(id(tensor), (len(self.ids), tensor))[0]

    def define(self, tensor):
        return f"%{self.number(tensor)}: {type_text(tensor, self.storages)}"

    def constant(self, value):
        if isinstance(value, torch.Tensor):
            self.constants.append(f"constant {self.define(value)} = {[float(item) for item in value.flatten()]}")
            return f"%{self.number(value)}"
        tensor = torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else torch.int64)
        self.constants.append(f"constant {self.define(tensor)} wrapped = [{value}]")
        return f"%{self.number(tensor)}"

    def operand(self, value, type_):
        if isinstance(value, torch.Tensor):
            return f"%{self.number(value)}" if id(value) in self.ids else self.constant(value)
        if "Tensor" in str(type_) and isinstance(value, int | float):
            return self.constant(value)
        if isinstance(value, list | tuple):
            return f"[{', '.join(self.operand(item, type_) for item in value)}]"
        if isinstance(value, torch.dtype | torch.layout | torch.memory_format):
            return str(value).removeprefix("torch.")
        if isinstance(value, torch.device):
            return f'"{value}"'
        if isinstance(value, str):
            return f'"{value}"'
        if isinstance(value, float) or str(type_) not in ("float", "Optional[float]") or value is None:
            return repr(value)
        return repr(float(value))

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        arguments = {argument.name: argument for argument in func._schema.arguments}
        texts = [self.operand(v, a.type) for v, a in zip(args, arguments.values(), strict=False)]
        texts += [f"{name}={self.operand(value, arguments[name].type)}" for name, value in kwargs.items()]
        result = func(*args, **kwargs)
        parts = list(result) if isinstance(result, tuple) else [result]
        results = [
            f"[{', '.join(self.define(item) for item in part)}]" if isinstance(part, list) else self.define(part)
            for part in parts
            if isinstance(part, list | torch.Tensor)
        ]
        name = func._schema.name + (f".{func._schema.overload_name}" if func._schema.overload_name else "")
        self.nodes.append(f"{', '.join(results)} = {name}({', '.join(texts)})")
        return result


def record(function, inputs):
    """(text, outputs) of function(*inputs), without gradients; the outputs are tensors, flattened."""
    recorder = Recorder(inputs)
    with torch.no_grad(), recorder:
        outputs = tree_leaves(function(*inputs))
    names = ", ".join(f"%{recorder.number(output)}" for output in outputs)
    return "\n".join([*recorder.head, *recorder.constants, *recorder.nodes, f"return {names}"]) + "\n", outputs
