"""Whole training runs in float64, the files `train_*.safetensors`, from those beside them (`vit`, `head`,
`tracker`, `loss`, `two_views`): `python make_runs.py FOLDER NAME...`, with PyTorch. NAME is `released`, `mean`,
`two_views` or `dino`. With `--check` it compares with the files that are there and writes none.

Six steps on the same frames: losses, drawn heads and schedules go into the metadata, the last student,
teacher and centre into tensors.
"""

import argparse
import json
import pathlib

import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dora_reference as dora

STEPS, FREEZE_STEPS, CLIP, CENTER_MOMENTUM = 6, 2, 3.0, 0.9
BETAS, EPS = (0.9, 0.999), 1e-8
SCHEDULES = {
    "lr": dora.cosine_schedule(2e-3, 1e-5, STEPS, warmup=2),
    "wd": dora.cosine_schedule(0.04, 0.4, STEPS),
    "momentum": dora.cosine_schedule(0.996, 1.0, STEPS),
}
# Drawn once, with PyTorch's generator: what matters is that three of four heads change from step to step.
HEAD_IDS = [[1, 3, 2], [0, 2, 3], [3, 0, 1], [0, 3, 1], [0, 3, 1], [0, 1, 3]]


def read(path):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        return tensors, json.loads(file.metadata()["meta"])


class Run:
    def __init__(self, folder, name):
        [(vit, self.vit), (head, _), (_, self.tracker), (_, self.loss), (second, _)] = [
            read(folder / f"{name}.safetensors") for name in ("vit", "head", "tracker", "loss", "two_views")
        ]
        self.name = name
        two = name in ("two_views", "dino")
        views = [vit["frames_BTCHW"]] + ([second["frames_b_BTCHW"]] if two else [])
        self.views = [view.double() for view in views]
        self.local = vit["local_LBTCHW"].double()
        values = {}
        for part, tensors in (("backbone.", vit), ("head.", head)):
            for key, value in tensors.items():
                if key.startswith("weights."):
                    values[part + key.removeprefix("weights.")] = value.double()
        self.student = {key: value.clone().requires_grad_() for key, value in values.items()}
        self.teacher = {key: value.clone() for key, value in values.items()}
        self.center = torch.zeros(1, head["logits"].shape[-1], dtype=torch.float64)

    def encode(self, weights, images):
        backbone = {key[9:]: value for key, value in weights.items() if key.startswith("backbone.")}
        sizes = self.vit["patch"], self.vit["heads"], self.vit["depth"], self.vit["eps"]
        return dora.vit_forward(backbone, images, *sizes)

    def project(self, weights, tokens):
        head = {key[5:]: value for key, value in weights.items() if key.startswith("head.")}
        return dora.head_forward(head, tokens[:, 0])

    def answer(self, weights, images):
        return self.project(weights, self.encode(weights, images)["tokens"])

    def masked(self, frames, head_ids):
        """Frames with all but one object masked, [k,B,T,3,H,W]; float64 masks."""
        outputs = [self.encode(self.teacher, frames[:, t]) for t in range(frames.shape[1])]
        first = outputs[0]
        _, _, refined = dora.discover(
            first["attn"],
            first["q"],
            first["tokens"][:, 1:],
            head_ids,
            eps=self.tracker["eps"],
            iters=self.tracker["iters"],
        )
        side = frames.shape[-1] // self.vit["patch"]
        masks = [dora.object_masks(dora.track(refined, output["k"]), side, side) for output in outputs]
        return dora.masked_crops(frames, torch.stack(masks).double(), self.vit["patch"])

    def forward(self, head_ids):
        """The loss of a step, and the teacher's logits [V,T,B,D]."""
        frames = range(self.views[0].shape[1])
        with torch.no_grad():
            teacher = torch.stack(
                [torch.stack([self.answer(self.teacher, v[:, t]) for t in frames]) for v in self.views]
            )
            if self.name != "dino":
                masked_V = [self.masked(view, head_ids) for view in self.views]
        crops = [self.local[:, :, t].flatten(0, 1) for t in frames]
        local = torch.stack([self.answer(self.student, crop) for crop in crops])
        n_local = self.local.shape[0]
        temps = self.loss["teacher_temp"], n_local, self.loss["student_temp"]
        if self.name == "dino":
            whole = [torch.stack([self.answer(self.student, v[:, t]) for t in frames]) for v in self.views]
            return dino_loss(local, whole, teacher, self.center, *temps), teacher
        students = [
            [torch.stack([self.answer(self.student, m[:, t]) for t in frames]) for m in masked]
            for masked in masked_V
        ]
        if self.name == "two_views":
            return dora.two_view_loss(local, students, teacher, self.center, *temps)[0], teacher
        if self.name == "released":
            return dora.released_loss(local, students[0], teacher[0], self.center, *temps), teacher
        return dora.mean_loss(local, students[0], teacher[0], self.center, *temps)[0], teacher

    def train(self):
        decayed, undecayed = [], []
        for key, param in self.student.items():
            (undecayed if param.dim() == 1 or key.endswith(".bias") else decayed).append(param)
        optimizer = torch.optim.AdamW(
            [{"params": decayed}, {"params": undecayed}], lr=0.0, betas=BETAS, eps=EPS
        )
        losses = []
        for step in range(STEPS):
            lr, decay, momentum = (SCHEDULES[name][step] for name in ("lr", "wd", "momentum"))
            loss, teacher = self.forward(HEAD_IDS[step])
            losses.append(loss.item())
            optimizer.zero_grad()
            loss.backward()
            for key, param in self.student.items():
                factor = CLIP / (param.grad.norm() + 1e-6)
                if factor < 1:
                    param.grad.mul_(factor)
                if step < FREEZE_STEPS and key.startswith("head.last_layer."):
                    param.grad = None
            for group, group_decay in zip(optimizer.param_groups, (decay, 0.0)):
                group["lr"], group["weight_decay"] = lr, group_decay
            optimizer.step()
            with torch.no_grad():
                for key, param in self.student.items():
                    self.teacher[key].mul_(momentum).add_(param, alpha=1 - momentum)
            self.center = dora.update_center(self.center, teacher.flatten(0, 1), CENTER_MOMENTUM)
        tensors = {"center": self.center}
        tensors |= {f"student.{key}": param.detach() for key, param in self.student.items()}
        tensors |= {f"teacher.{key}": value for key, value in self.teacher.items()}
        meta = {
            "losses": losses,
            "head_ids": HEAD_IDS,
            "schedules": SCHEDULES,
            "steps": STEPS,
            "clip": CLIP,
            "betas": BETAS,
            "adam_eps": EPS,
            "freeze_last_layer_steps": FREEZE_STEPS,
            "start": "weights of vit.safetensors and head.safetensors, centre 0, same frames every step, "
            "drop_path 0, float64",
            "no_weight_decay": "names ending in .bias and 1-D tensors",
        }
        return tensors, meta


def dino_loss(local, whole, teacher, center, temp_t, n_local, temp_s):
    """Caron et al. 2021 on every frame: the teacher of each view faces the student on the other whole view and
    on each local crop; all pairs weigh the same. local [T,L*B,D], whole list of two [T,B,D], teacher [2,T,B,D]."""
    total, pairs = 0.0, 0
    for u in (0, 1):
        probs = ((teacher[u] - center) / temp_t).softmax(-1)
        for student in [whole[1 - u], *local.chunk(n_local, dim=1)]:
            total, pairs = total + dora.cross_entropy(probs, student, temp_s).mean(), pairs + 1
    return total / pairs


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("names", nargs="+", choices=["released", "mean", "two_views", "dino"])
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    for name in args.names:
        tensors, meta = Run(args.folder, name).train()
        path = args.folder / f"train_{name}.safetensors"
        if not args.check:
            save_file({key: value.contiguous() for key, value in tensors.items()}, path, {"meta": json.dumps(meta)})
            continue
        expected, expected_meta = read(path)
        assert tensors.keys() == expected.keys(), name
        off = max((tensors[key] - value).abs().max().item() for key, value in expected.items())
        losses = zip(meta.pop("losses"), expected_meta.pop("losses"))
        print(name, "tensors", off, "losses", max(abs(a - b) for a, b in losses))
        assert json.loads(json.dumps(meta)) == expected_meta, f"{meta}\n{expected_meta}"


if __name__ == "__main__":
    main()
