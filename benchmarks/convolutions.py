"""The convolutions of ResNet-18 with their batch norms, each by itself and in its net.

Eager, framejit (channels-last in the graph), and framejit with freeze=True (batch norm folded into the weight, which
oneDNN packed once), in the same rounds. `--layouts` times ATen's convolution alone, over images in either layout.

Target: frozen no slower than eager and than without freezing.
usage: python -m benchmarks.convolutions [--check] [--quick] [--layouts] [--batch N] [--threads N]
"""

import sys

import torch
from torch import nn

import framejit
from benchmarks import common
from benchmarks.models_zoo import MODELS

# channels in, out, size of the image, of the kernel, stride
SHAPES = [
    (3, 64, 224, 7, 2),
    (64, 64, 56, 3, 1),
    (64, 128, 56, 3, 2),
    (128, 128, 28, 3, 1),
    (64, 128, 56, 1, 2),
    (256, 256, 14, 3, 1),
    (256, 512, 14, 3, 2),
    (512, 512, 7, 3, 1),
]


def layer(channels: int, out: int, kernel: int, stride: int) -> nn.Module:
    conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU()).eval()


def measure(name: str, model: nn.Module, inputs: dict | list, rounds: int, targets: common.Targets) -> list[str]:
    candidates = {"eager": model, "framejit": framejit.compile(model), "frozen": framejit.compile(model, freeze=True)}

    def call(f):
        return (lambda: f(**inputs)) if isinstance(inputs, dict) else (lambda: f(*inputs))

    calls = {name: call(f) for name, f in candidates.items()}
    for f in calls.values():
        f()
    best = common.minimum_seconds(calls, rounds)
    for other in ("eager", "framejit"):
        targets.at_most(f"{name}: frozen over {other}", best["frozen"] / best[other], 1)
    times = [common.microseconds(best[key]) for key in candidates]
    return [name, *times, common.ratio(best["eager"], best["frozen"])]


def layouts(batch: int, rounds: int) -> None:
    """What the rule of backends/native/convolution_layouts.cc goes by."""
    headings = [f"batch {batch}", "positions", "contiguous us", "channels-last us", "ratio"]
    table = common.GrowingTable(headings, label_width=36)
    grouped = [(32, 32, 112, 3, 1, 32), (96, 96, 112, 3, 2, 96), (192, 192, 28, 3, 1, 192), (128, 128, 28, 3, 1, 32)]
    products = [(64, 256, 56, 1, 1, 1), (256, 64, 56, 1, 1, 1), (1024, 256, 14, 1, 1, 1)]
    for channels, out, size, kernel, stride, groups in [(*shape, 1) for shape in SHAPES] + products + grouped:
        conv = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False, groups=groups)
        image = torch.randn(batch, channels, size, size)
        images = {"contiguous": image, "channels last": image.to(memory_format=torch.channels_last)}
        best = common.minimum_seconds({name: lambda x=x, f=conv: f(x) for name, x in images.items()}, rounds)
        name = f"{channels}x{size}x{size} to {out}, {kernel}x{kernel}/{stride}"
        positions = batch * ((size - 1) // stride + 1) ** 2
        times = [common.microseconds(best[key]) for key in images]
        ratio = common.ratio(best["contiguous"], best["channels last"])
        table.add([name + (f", {groups} groups" if groups > 1 else ""), str(positions), *times, ratio])


def main() -> int:
    parser = common.parser("convolutions with frozen weights, and their layouts")
    parser.add_argument("--layouts", action="store_true", help="time ATen's convolution in both layouts")
    parser.add_argument("--batch", type=int, default=1, help="images in a batch, for --layouts")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(common.environment_line(arguments.threads))
    if arguments.layouts:
        with torch.no_grad():
            layouts(arguments.batch, arguments.rounds or (3 if arguments.quick else 30))
        return 0
    table = common.GrowingTable(["batch 1", "eager us", "framejit us", "frozen us", "eager / frozen"], label_width=28)
    targets, rounds = common.Targets(), arguments.rounds or (3 if arguments.quick else 15)
    with torch.no_grad():
        for channels, out, size, kernel, stride in SHAPES[-2:] if arguments.quick else SHAPES:
            name = f"{channels}x{size}x{size} to {out}, {kernel}x{kernel}/{stride}"
            inputs = [torch.randn(1, channels, size, size)]
            table.add(measure(name, layer(channels, out, kernel, stride), inputs, rounds, targets))
        net = MODELS["resnet18"]
        table.add(measure("resnet18", net.build(arguments.quick), net.inputs(arguments.quick, 0, 0), rounds, targets))
    return targets.finish(arguments.check)


if __name__ == "__main__":
    sys.exit(main())
