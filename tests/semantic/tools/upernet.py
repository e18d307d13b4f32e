"""UperNet in PyTorch's modules, given the parameters, maps, logits and gradients of a file: prints the
largest error of each, as a share of the largest value, as JSON.

    upernet.py FILE LEVEL SIDE...    LEVEL is the auxiliary head's map, SIDEs are the pyramid pooling's
"""

import json
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import nn

path, level, *sides = sys.argv[1:]
given = load_file(path)


def part(prefix):
    return {name[len(prefix) :]: value for name, value in given.items() if name.startswith(prefix)}


class ConvNorm(nn.Module):
    def __init__(self, weight):
        super().__init__()
        to, of, side, _ = weight.shape
        self.conv = nn.Conv2d(of, to, side, padding=side // 2, bias=False)
        self.bn = nn.BatchNorm2d(to)

    def forward(self, x):
        return F.relu(self.bn(self.conv(x)))


def last(weight):
    return nn.Conv2d(weight.shape[1], weight.shape[0], 1)


def resize(x, like):
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


class UperNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        up = lambda: nn.ConvTranspose2d(width, width, 2, 2)
        self.neck = nn.ModuleDict(
            {"fpn1": nn.Sequential(up(), nn.BatchNorm2d(width), nn.GELU(), up()), "fpn2": nn.Sequential(up())}
        )
        conv = lambda name: ConvNorm(given[f"decode_head.{name}.conv.weight"])
        pool = lambda index, side: nn.Sequential(nn.AdaptiveAvgPool2d(int(side)), conv(f"psp_modules.{index}.1"))
        self.decode_head = nn.ModuleDict(
            {
                "psp_modules": nn.ModuleList(pool(index, side) for index, side in enumerate(sides)),
                "bottleneck": conv("bottleneck"),
                "lateral_convs": nn.ModuleList(conv(f"lateral_convs.{index}") for index in range(3)),
                "fpn_convs": nn.ModuleList(conv(f"fpn_convs.{index}") for index in range(3)),
                "fpn_bottleneck": conv("fpn_bottleneck"),
                "conv_seg": last(given["decode_head.conv_seg.weight"]),
            }
        )
        self.auxiliary_head = nn.ModuleDict(
            {
                "convs": nn.ModuleList([ConvNorm(given["auxiliary_head.convs.0.conv.weight"])]),
                "conv_seg": last(given["auxiliary_head.conv_seg.weight"]),
            }
        )

    def forward(self, maps):
        head = self.decode_head
        pyramid = [self.neck["fpn1"](maps[0]), self.neck["fpn2"](maps[1]), maps[2], F.max_pool2d(maps[3], 2, 2)]
        top = pyramid[-1]
        pooled = [top] + [resize(pool(top), top) for pool in head["psp_modules"]]
        laterals = [conv(x) for conv, x in zip(head["lateral_convs"], pyramid)]
        laterals.append(head["bottleneck"](torch.cat(pooled, 1)))
        for index in range(3, 0, -1):
            laterals[index - 1] = laterals[index - 1] + resize(laterals[index], laterals[index - 1])
        outs = [conv(x) for conv, x in zip(head["fpn_convs"], laterals)] + [laterals[3]]
        outs = [outs[0]] + [resize(x, outs[0]) for x in outs[1:]]
        return head["conv_seg"](head["fpn_bottleneck"](torch.cat(outs, 1)))

    def auxiliary(self, maps):
        head = self.auxiliary_head
        return head["conv_seg"](head["convs"][0](maps[int(level)]))


maps = [given[f"map.{index}"] for index in range(4)]
net = UperNet(maps[0].shape[1])
own = {name: value for name, value in given.items() if name.startswith(("neck.", "decode_head.", "auxiliary_head."))}
unknown = net.load_state_dict(own, strict=False)
assert not unknown.unexpected_keys, unknown
assert all(name.endswith("num_batches_tracked") for name in unknown.missing_keys), unknown

main, auxiliary = net(maps), net.auxiliary(maps)
((main * given["of.main"]).sum() + (auxiliary * given["of.auxiliary"]).sum()).backward()
net.eval()
found = {"out.main": main, "out.auxiliary": auxiliary, "out.tested": net(maps)}
found.update((f"grad.{name}", value.grad) for name, value in net.named_parameters())


def error(name):
    expected = found[name].detach()
    return ((given[name] - expected).abs().max() / expected.abs().max().clamp_min(1e-6)).item()


print(json.dumps({name: error(name) for name in found}))
