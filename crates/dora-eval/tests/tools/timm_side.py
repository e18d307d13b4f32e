"""timm's side of the test of export and import.

load [README IMAGES FEATURES]...  runs each README's lines of Python and computes features of the images
save WEIGHTS IMAGES FEATURES      makes an encoder, saves it as people do, and computes its features
"""

import argparse
import os
import re
import sys
from pathlib import Path

import timm
import torch
from safetensors.torch import load_file, save_file


def readme_model(readme):
    code = re.search(r"```python\n(.*?)```", Path(readme).read_text(), re.DOTALL).group(1)
    os.chdir(Path(readme).parent)
    names = {}
    exec(code, names)
    return names["model"]


def saved_model(path, image_px):
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=image_px, num_classes=10)
    state = {"module.encoder." + name: value for name, value in model.state_dict().items()}
    args = argparse.Namespace(arch="vit_tiny", crops=(0.4, 1.0))
    optimizer = torch.optim.AdamW(model.parameters())
    sum(parameter.sum() for parameter in model.parameters()).backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer.step()
    model.load_state_dict(before)
    torch.save(
        {"state_dict": state, "args": args, "optimizer": optimizer.state_dict(), "epoch": 3}, path
    )
    return model


def compute(job, path, images, features):
    images = load_file(images)["images"]
    model = readme_model(path) if job == "load" else saved_model(path, images.shape[-1])
    model.eval()
    with torch.no_grad():
        tokens = model.forward_features(images)
        save_file({"tokens": tokens.contiguous(), "cls": tokens[:, 0].contiguous()}, features)
        if job == "load":
            assert torch.equal(model(images), tokens[:, 0])


job, *paths = sys.argv[1:]
for at in range(0, len(paths), 3):
    compute(job, *paths[at : at + 3])
