"""A small, slow, plain PyTorch statement of DoRA, written from the paper's equations. The golden tensors come
from it (make_runs.py), and nothing else uses it. B clips, T frames, C heads, n patches, d width, k objects,
D prototypes of the projection head."""
import math
import torch
import torch.nn.functional as F


# ---------------------------------------------------------------- encoder
def vit_forward(w, x, patch, heads, depth, eps=1e-6, drop_layers=()):
    """w: dict of tensors in timm/DINO naming. x: [B,3,H,W]. Returns a dict with
    tokens [B,n+1,d] after the final norm, and of the last block attn [B,C,n+1,n+1], q, k [B,C,n+1,d/C];
    inter: list of normed tokens of every block."""
    b, _, hh, ww = x.shape
    t = F.conv2d(x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=patch)
    t = t.flatten(2).transpose(1, 2)
    d = t.shape[-1]
    t = torch.cat([w["cls_token"].expand(b, -1, -1), t], 1) + pos_embed(w["pos_embed"], hh // patch, ww // patch)
    inter = []
    for i in range(depth):
        p = f"blocks.{i}."
        y = F.layer_norm(t, (d,), w[p + "norm1.weight"], w[p + "norm1.bias"], eps)
        qkv = F.linear(y, w[p + "attn.qkv.weight"], w[p + "attn.qkv.bias"])
        q, k, v = qkv.view(b, -1, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
        attn = ((q @ k.transpose(-1, -2)) * (d // heads) ** -0.5).softmax(-1)
        y = (attn @ v).transpose(1, 2).reshape(b, -1, d)
        t = t + F.linear(y, w[p + "attn.proj.weight"], w[p + "attn.proj.bias"])
        y = F.layer_norm(t, (d,), w[p + "norm2.weight"], w[p + "norm2.bias"], eps)
        y = F.gelu(F.linear(y, w[p + "mlp.fc1.weight"], w[p + "mlp.fc1.bias"]))
        t = t + F.linear(y, w[p + "mlp.fc2.weight"], w[p + "mlp.fc2.bias"])
        inter.append(F.layer_norm(t, (d,), w["norm.weight"], w["norm.bias"], eps))
    return dict(tokens=inter[-1], attn=attn, q=q, k=k, inter=inter)


def pos_embed(pe, gh, gw):
    """DINO's bicubic interpolation of the position embedding to a gh x gw grid (scale factor with +0.1)."""
    n = pe.shape[1] - 1
    s = int(math.sqrt(n))
    if (gh, gw) == (s, s):
        return pe
    grid = pe[:, 1:].reshape(1, s, s, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((gh + 0.1) / math.sqrt(n), (gw + 0.1) / math.sqrt(n)), mode="bicubic")
    assert grid.shape[-2:] == (gh, gw)
    return torch.cat([pe[:, :1], grid.permute(0, 2, 3, 1).reshape(1, gh * gw, -1)], 1)


def head_forward(w, x):
    """DINO projection head: 3 linear layers with GELU, L2 normalisation, weight-normalised last layer."""
    x = F.gelu(F.linear(x, w["mlp.0.weight"], w["mlp.0.bias"]))
    x = F.gelu(F.linear(x, w["mlp.2.weight"], w["mlp.2.bias"]))
    x = F.normalize(F.linear(x, w["mlp.4.weight"], w["mlp.4.bias"]), dim=-1)
    v, g = w["last_layer.weight_v"], w["last_layer.weight_g"]
    return F.linear(x, g * v / v.norm(dim=1, keepdim=True))


# ---------------------------------------------------------------- discover and track
def sinkhorn(scores, eps=0.05, iters=30):
    """scores [B,n,k] -> transport plan [B,n,k] whose rows (patches) sum to 1, columns near n/k.
    Each iteration scales objects to 1/k, then patches to 1/n."""
    q = (scores - scores.amax((1, 2), keepdim=True)) / eps
    q = q.exp().transpose(1, 2)                                   # [B,k,n]
    q = q / q.sum((1, 2), keepdim=True)
    k, n = q.shape[1:]
    for _ in range(iters):
        q = q / q.sum(2, keepdim=True) / k
        q = q / q.sum(1, keepdim=True) / n
    return (q * n).transpose(1, 2)


def discover(attn0, q0, z0, head_ids, use_sk=True, eps=0.05, iters=30):
    """First frame. attn0 [B,C,n+1,n+1], q0 [B,C,n+1,d/C], z0 [B,n,d] patch outputs, head_ids: k heads.
    Returns prototypes P [B,k,d], plan M [B,n,k], refined P' [B,k,d]."""
    b, c, n1, _ = q0.shape
    qt = q0[:, :, 1:].permute(0, 2, 1, 3).reshape(b, n1 - 1, -1)  # heads concatenated
    a = attn0[:, head_ids, 0, 1:]                                 # [CLS] row, [B,k,n]
    p = a @ qt
    if not use_sk:
        return p, None, p
    z = z0 / z0.norm(dim=-1, keepdim=True)
    m = sinkhorn(z @ p.transpose(1, 2), eps, iters)
    return p, m, m.transpose(1, 2) @ z


def track(p, k_t):
    """Cross-attention of prototypes [B,k,d] with the keys of one frame [B,C,n+1,d/C] -> [B,k,n]."""
    b, c, n1, _ = k_t.shape
    kt = k_t[:, :, 1:].permute(0, 2, 1, 3).reshape(b, n1 - 1, -1)
    return ((p @ kt.transpose(1, 2)) * p.shape[-1] ** -0.5).softmax(-1)


def object_masks(maps, gh, gw):
    """maps [B,k,n] -> binary [B,k,gh,gw]: L2-normalise each map over its patches, keep what lies above the
    mean over the batch and the patches of that object."""
    m = maps / maps.norm(dim=-1, keepdim=True)
    return (m > m.mean((0, 2), keepdim=True)).float().reshape(*maps.shape[:2], gh, gw)


def masked_crops(frames, masks, patch):
    """frames [B,T,3,H,W], masks [T,B,k,gh,gw] -> [k,B,T,3,H,W]."""
    up = masks.repeat_interleave(patch, -1).repeat_interleave(patch, -2)
    return torch.einsum("btchw,tbkhw->kbtchw", frames, up)


# ---------------------------------------------------------------- losses
def cross_entropy(teacher_probs, student_logits, temp_s=0.1):
    """[..,D] x [..,D] -> [..] cross-entropy of the sharpened teacher and the student."""
    return -(teacher_probs * F.log_softmax(student_logits / temp_s, -1)).sum(-1)


def released_loss(local, masked, teacher, center, temp_t, n_local, temp_s=0.1):
    """The loss as the released code computes it. local [T,L*B,D], masked list of k [T,B,D], teacher [T,B,D].
    Its quirks, kept here on purpose: one global view; local crop 0 is skipped; the running frame sum is divided by
    T after every object without being reset, so object j's frames weigh 1/T, 1/T^2, ... of later totals."""
    t_frames = teacher.shape[0]
    probs = ((teacher - center) / temp_t).softmax(-1)
    run, total = 0.0, 0.0
    for m in masked:
        for t in range(t_frames):
            lm = cross_entropy(probs[t], m[t], temp_s).mean()
            ls = local[t].chunk(n_local)
            ll = sum(cross_entropy(probs[t], s, temp_s).mean() for s in ls[1:]) / (n_local - 1)
            run = run + 0.5 * (lm + ll)
        run = run / t_frames
        total = total + run
    return total / len(masked)


def mean_loss(local, masked, teacher, center, temp_t, n_local, temp_s=0.1):
    """The same terms, each object and frame with equal weight and every local crop kept."""
    probs = ((teacher - center) / temp_t).softmax(-1)
    lo = torch.stack([cross_entropy(probs, m, temp_s).mean() for m in masked]).mean()
    t, lb, d = local.shape
    ll = cross_entropy(probs[:, None], local.view(t, n_local, lb // n_local, d), temp_s).mean()
    return 0.5 * (lo + ll), lo, ll


def two_view_loss(local, masked, teacher, center, temp_t, n_local, temp_s=0.1):
    """The paper's form: global views u, v in {a, b}. teacher [2,T,B,D]; masked [2,k,T,B,D], the student on view v masked by
    object; the teacher of view u faces the masked views v != u, and every local crop faces both teachers."""
    probs = ((teacher - center) / temp_t).softmax(-1)
    lo = torch.stack([cross_entropy(probs[u], m, temp_s).mean() for u, v in ((0, 1), (1, 0)) for m in masked[v]]).mean()
    t, lb, d = local.shape
    crops = local.view(t, n_local, lb // n_local, d)
    ll = torch.stack([cross_entropy(probs[u][:, None], crops, temp_s).mean() for u in (0, 1)]).mean()
    return 0.5 * (lo + ll), lo, ll


def update_center(center, teacher, momentum=0.9):
    """teacher [T,B,D] of all ranks -> new centre [1,D]."""
    return center * momentum + teacher.flatten(0, 1).mean(0, keepdim=True) * (1 - momentum)


def cosine_schedule(base, final, total, warmup=0, start=0.0):
    """Linear warm-up over `warmup` iterations (endpoint included, as numpy.linspace), then a half cosine."""
    warm = [start + (base - start) * i / (warmup - 1) if warmup > 1 else start for i in range(warmup)]
    n = total - warmup
    return warm + [final + 0.5 * (base - final) * (1 + math.cos(math.pi * i / n)) for i in range(n)]
