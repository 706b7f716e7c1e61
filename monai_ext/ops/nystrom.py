"""Nystroem attention: softmax attention through a few landmarks (Xiong et al., Nystroemformer, arXiv 2102.03902, 2021).

Legend: B batch, H heads, N tokens, M landmarks, D channels of a head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.utils.checkpoint import checkpoint

from monai_ext.ops.shapes import check_qkv
from monai_ext.ops.softmax import softmax_attention

SEGMENTS = ("even", "padded")
STARTS = ("own", "batch")


def nystrom_attention_plain(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    landmarks: int,
    segments: str = "even",
    iterations: int = 6,
    inverse_start: str = "own",
) -> torch.Tensor:
    """The definition, with the (N, M) and (M, N) weights in memory, in the dtype of the inputs."""
    n = q.shape[2]
    if segments == "even" and n <= landmarks:
        return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
    if segments == "padded":
        q, k, v = (F.pad(t, (0, 0, -n % landmarks, 0)) for t in (q, k, v))
    # even: the first n % landmarks segments have one token more
    short, longer = divmod(q.shape[2], landmarks)
    lengths = [short + 1] * longer + [short] * (landmarks - longer)
    q_marks, k_marks = (torch.stack([s.mean(-2) for s in t.split(lengths, -2)], -2) for t in (q, k))

    def weights(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a @ b.transpose(-2, -1) * a.shape[-1] ** -0.5).softmax(-1)

    inverse = pseudo_inverse(weights(q_marks, k_marks), iterations, inverse_start)
    return (weights(q, k_marks) @ inverse @ weights(q_marks, k) @ v)[:, :, -n:]


def nystrom_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    landmarks: int,
    segments: str = "even",
    iterations: int = 6,
    inverse_start: str = "own",
) -> torch.Tensor:
    """Nystroem attention: ``s(q k~^T) s(q~ k~^T)^+ s(q~ k^T) v`` with s the softmax of scores over sqrt(D).

    The landmarks q~ and k~ are the means of M segments of consecutive tokens, and ^+ is an iterative pseudo-inverse.
    Both outer products are fused softmax attention (M queries of all tokens, then all tokens of M keys), so no (N, M)
    weights are in memory: O(N M D + M^3) time, memory linear in N.

    Departures from the paper and the published code: N tokens that M does not divide make segments whose lengths
    differ by one (the paper pads, and padding tokens take part as keys of score 0); with no more tokens than
    landmarks, where the product equals softmax attention, it is computed as such; the pseudo-inverse starts from the
    norms of each head and sample (in one version of the authors' code an option), not from the largest ones of the
    batch (the default there, and all that the published implementations know), for with these the entries of a batch
    see each other. After six steps that is a difference of a percent or so where scores are large, and less where they
    are small. All of it is in float32 at least, also under autocast: the inverse magnifies rounding.

    Args:
        q: queries (B, H, N, D).
        k: keys (B, H, N, D).
        v: values (B, H, N, D).
        landmarks: number M of segments.
        segments: ``"even"``, or ``"padded"``: zeros in front up to a multiple of M, unmasked, as in a published
            implementation.
        iterations: steps of the pseudo-inverse.
        inverse_start: ``"own"`` norms of each head and sample, or the largest of the ``"batch"``.

    Returns:
        (B, H, N, D) in the dtype of q

    Raises:
        ValueError: for q, k, v of different or other than four-dimensional shapes, no tokens, no landmarks or steps,
            or unknown segments or start.
    """
    check_qkv(q, k, v)
    check_nystrom(landmarks, segments, iterations, inverse_start)
    dtype, acc = q.dtype, torch.promote_types(q.dtype, torch.float32)
    n = q.shape[2]
    with torch.autocast(q.device.type, enabled=False):
        q, k, v = (t.to(acc) for t in (q, k, v))
        if segments == "even" and n <= landmarks:
            return softmax_attention(q, k, v).to(dtype)
        if segments == "padded" and n % landmarks:
            q, k, v = (F.pad(t, (0, 0, -n % landmarks, 0)) for t in (q, k, v))
        q_marks, k_marks = segment_means(q, landmarks), segment_means(k, landmarks)
        values = softmax_attention(q_marks, k, v)
        if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
            # a dozen (M, M) matrices a head, more than the tokens themselves where these are windows
            how = iterations, inverse_start
            inverse = checkpoint(_inverse, q_marks, k_marks, *how, use_reentrant=False, preserve_rng_state=False)
        else:
            inverse = _inverse(q_marks, k_marks, iterations, inverse_start)
        out = softmax_attention(q, k_marks, inverse @ values)
        return out[:, :, out.shape[2] - n :].to(dtype)


def check_nystrom(landmarks: int, segments: str, iterations: int, inverse_start: str = "own") -> None:
    """Refuse what is no setting of Nystroem attention.

    Raises:
        ValueError: for no landmarks or steps, or unknown segments or start.
    """
    if landmarks < 1 or iterations < 1:
        raise ValueError(f"landmarks and iterations must be at least 1, got {landmarks} and {iterations}.")
    if segments not in SEGMENTS:
        raise ValueError(f"segments must be one of {', '.join(map(repr, SEGMENTS))}, got {segments!r}.")
    if inverse_start not in STARTS:
        raise ValueError(f"inverse_start must be one of {', '.join(map(repr, STARTS))}, got {inverse_start!r}.")


def segment_means(x: torch.Tensor, count: int) -> torch.Tensor:
    """Means of consecutive tokens (B, H, N, D) to (B, H, count, D); the first N % count segments are one longer."""
    b, h, n, d = x.shape
    short, longer = n // count, n % count
    at = longer * (short + 1)
    means = x[:, :, at:].reshape(b, h, count - longer, short, d).mean(-2)
    if not longer:
        return means
    return torch.cat([x[:, :, :at].reshape(b, h, longer, short + 1, d).mean(-2), means], 2)


def pseudo_inverse(a: torch.Tensor, iterations: int, start: str = "own") -> torch.Tensor:
    """Moore-Penrose inverse of (.., M, M) by a third-order Newton-Schulz iteration (Razavi et al., 2014).

    ``z <- z (13 - a z (15 - a z (7 - a z))) / 4`` from ``z = a^T / (|a|_1 |a|_inf)``, each matrix with its own
    norms or, with the start ``"batch"``, all with the largest.
    """
    columns, rows = a.abs().sum(-2), a.abs().sum(-1)
    norms = (columns.amax(-1) * rows.amax(-1))[..., None, None] if start == "own" else columns.amax() * rows.amax()
    z = a.transpose(-2, -1) / norms
    one = torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
    for _ in range(iterations):
        az = a @ z
        z = z @ (13 * one - az @ (15 * one - az @ (7 * one - az))) / 4
    return z


def _inverse(q_marks: torch.Tensor, k_marks: torch.Tensor, iterations: int, start: str) -> torch.Tensor:
    scores = q_marks @ k_marks.transpose(-2, -1) * q_marks.shape[-1] ** -0.5
    return pseudo_inverse(scores.softmax(-1), iterations, start)
