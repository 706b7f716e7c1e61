"""The selective scan: a linear recurrence whose decay, input and output depend on the token.

Legend: B batch, E channels, N tokens, S states of a channel, G groups of channels, T tokens of a block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from monai_ext.ops.backends import choose_backend, why_not_installed
from monai_ext.ops.recurrence import recur_

BACKENDS = ("mamba_ssm",)
# Elements (tokens x states x channels) of a block, and how many fewer a single token's may be: a CPU is fastest where
# the few tensors of a block fit its cache.
CELLS_CPU, CELLS = 2**18, 2**24
TOKENS = 32
# Elements of a token below which chunks of a block are scanned side by side: a step then costs its call, not its
# arithmetic. On a GPU that is always so.
SHORT_CPU = 2**11


def selective_scan_plain(
    u: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None = None,
    softplus: bool = False,
    reverse: bool = False,
) -> torch.Tensor:
    """The recurrence, one token after the other."""
    if softplus:
        dt = F.softplus(dt)
    share = u.shape[1] // b.shape[1]
    h = u.new_zeros(u.shape[0], *a.shape)
    out: dict[int, torch.Tensor] = {}
    for t in reversed(range(u.shape[2])) if reverse else range(u.shape[2]):
        b_t, c_t = (m[..., t].repeat_interleave(share, 1) for m in (b, c))
        h = torch.exp(dt[:, :, t, None] * a) * h + (dt[:, :, t] * u[:, :, t]).unsqueeze(-1) * b_t
        out[t] = (c_t * h).sum(-1)
    y = torch.stack([out[t] for t in sorted(out)], -1)
    return y if d is None else y + d.unsqueeze(-1) * u


def selective_scan(
    u: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None = None,
    softplus: bool = False,
    reverse: bool = False,
    backend: str = "auto",
) -> torch.Tensor:
    """The selective scan of Mamba (Gu and Dao, arXiv 2312.00752, 2023).

    For every channel, with a state h of S numbers that starts at zero,

    ``h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t``,  ``y_t = C_t . h_t + D u_t``.

    Plain PyTorch goes through blocks of tokens: decays and inputs of a block are computed at once, and only
    ``h = decay * h + input`` is left to a loop, which goes through chunks of the block side by side where a token has
    too few channels to keep a processor busy (always, on a GPU; see ``monai_ext.ops.recurrence``). O(N E S) time. No
    tensor of N x E x S: the backward computes the states of one block at a time anew from the state before that block;
    kept are the inputs and one state every ``CELLS / (E S)``, at least ``TOKENS``, tokens. Decays are never divided
    by, so that large step sizes, whose decays vanish, do no harm. Not twice differentiable. Under ``torch.compile`` it
    is one opaque operator.

    As in the authors' code the decay is exact and the input an Euler step, ``dt B`` instead of the paper's integral.

    Args:
        u: the sequence (B, E, N), in any strides; where a token's channels lie side by side it is fastest.
        dt: step sizes (B, E, N), positive; before a softplus, where that is asked for.
        a: (E, S), negative for states that decay.
        b: into the states (B, G, S, N), shared by E / G consecutive channels.
        c: out of the states (B, G, S, N).
        d: weight of the direct path (E), or none.
        softplus: whether the step sizes are ``softplus(dt)``.
        reverse: from the last token to the first.
        backend: ``"torch"``; ``"mamba_ssm"``, the authors' kernels, on CUDA; ``"auto"``, these where they can be had.

    Returns:
        (B, E, N) in the dtype of u, a token's channels side by side; states are in float32 at least

    Raises:
        ValueError: for shapes that do not belong together, no tokens, or a backend that is unknown or cannot run this.
    """
    _check(u, dt, a, b, c, d)
    if backend == "auto" and torch.compiler.is_compiling():
        backend = "torch"
    if choose_backend(backend, {"mamba_ssm": lambda: _why_not_mamba(u, a)}) == "mamba_ssm":
        return _mamba(u, dt, a, b, c, d, softplus, reverse)
    if torch.jit.is_tracing():
        # a trace holds PyTorch's own operators only
        with torch.autocast(u.device.type, enabled=False):
            return _forward(u, dt, a, b, c, d, softplus, reverse, False)[0]
    inputs = (u, dt, a, b, c) if d is None else (u, dt, a, b, c, d)
    keep = torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    return _scan_op(u, dt, a, b, c, d, softplus, reverse, keep)[0]


def _check(u, dt, a, b, c, d) -> None:
    if u.ndim != 3 or u.shape != dt.shape or not u.numel():
        raise ValueError(
            f"u and dt must share one shape (B, E, N), none of them 0, got {tuple(u.shape)} and {tuple(dt.shape)}."
        )
    batch, channels, tokens = u.shape
    if a.ndim != 2 or a.shape[0] != channels or not a.shape[1]:
        raise ValueError(f"a must be (E, S) with E = {channels} and S >= 1, got {tuple(a.shape)}.")
    if b.ndim != 4 or b.shape != c.shape or (b.shape[0], *b.shape[2:]) != (batch, a.shape[1], tokens):
        raise ValueError(
            f"b and c must be (B, G, S, N) = ({batch}, G, {a.shape[1]}, {tokens}), got {tuple(b.shape)} and "
            f"{tuple(c.shape)}."
        )
    if not b.shape[1] or channels % b.shape[1]:
        raise ValueError(f"{channels} channels do not fall into {b.shape[1]} equal groups.")
    if d is not None and d.shape != (channels,):
        raise ValueError(f"d must be (E) = ({channels},), got {tuple(d.shape)}.")


def _why_not_mamba(u: torch.Tensor, a: torch.Tensor) -> str | None:
    if not u.is_cuda:
        return f"it runs on CUDA alone, and the input is on {u.device.type}."
    if u.dtype == torch.float64:
        return "it has no float64."
    if a.shape[1] > 256:
        return f"it has at most 256 states, and there are {a.shape[1]}."
    return why_not_installed("mamba_ssm")


def _mamba(u, dt, a, b, c, d, softplus: bool, reverse: bool) -> torch.Tensor:
    """The authors' kernels: one dtype for what depends on the token, float32 for what does not, tokens innermost."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    tokenwise = [t.flip(-1) if reverse else t for t in (u, dt, b, c)]
    x, step, b, c = (t.to(u.dtype).contiguous() for t in tokenwise)
    d = None if d is None else d.float()
    y = selective_scan_fn(x, step, a.float(), b, c, d, z=None, delta_bias=None, delta_softplus=softplus)
    return y.flip(-1) if reverse else y


class _Plan:
    """How the work is cut: tasks (some images, some channels of one group), each in blocks of tokens."""

    def __init__(self, u: torch.Tensor, a: torch.Tensor, groups: int, reverse: bool) -> None:
        batch, channels, tokens = u.shape
        states = a.shape[1]
        on_cpu = u.device.type == "cpu"
        cells = CELLS_CPU if on_cpu else CELLS
        self.short = SHORT_CPU if on_cpu else cells
        row = max(1, cells // min(tokens, TOKENS))
        share = channels // groups
        parts = math.ceil(share / max(1, min(share, row // states)))
        width = math.ceil(share / parts)
        images = max(1, min(int(batch), row // (states * width)))
        self.step = max(1, min(tokens, cells // (images * states * width)))
        self.reverse, self.tokens = reverse, tokens
        self.acc = torch.promote_types(u.dtype, torch.float32)
        if torch.jit.is_tracing():  # the batch whole, so that the trace takes any
            batches = [slice(0, batch)]
        else:
            batches = [slice(i, min(i + images, batch)) for i in range(0, batch, images)]
        self.tasks = [
            (part, g, slice(e, min(e + width, (g + 1) * share)))
            for part in batches
            for g in range(groups)
            for e in range(g * share, (g + 1) * share, width)
        ]
        self.blocks = math.ceil(tokens / self.step)

    def at(self, block: int) -> slice:
        """A block's tokens, counted in the order of the scan, as a slice of the sequence."""
        first, last = block * self.step, min((block + 1) * self.step, self.tokens)
        return slice(self.tokens - last, self.tokens - first) if self.reverse else slice(first, last)

    def load(self, part: torch.Tensor) -> torch.Tensor:
        """A block (T, B, ...) in the order of the scan, contiguous, for sums."""
        part = part.to(self.acc)
        return (part.flip(0) if self.reverse else part).contiguous()

    def store(self, part: torch.Tensor, value: torch.Tensor) -> None:
        part.copy_(value.flip(0) if self.reverse else value)

    def add(self, part: torch.Tensor, value: torch.Tensor) -> None:
        part.add_(value.flip(0) if self.reverse else value)


def _tokens_first(t: torch.Tensor) -> torch.Tensor:
    """(B, E, N) as (N, B, E), or (B, G, S, N) as (N, B, G, S)."""
    return t.movedim(-1, 0)


def _like(t: torch.Tensor) -> torch.Tensor:
    """An empty (B, E, N) with a token's channels side by side."""
    batch, channels, tokens = t.shape
    return t.new_empty((batch, tokens, channels)).transpose(1, 2)


def _contract(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """(T, B, 1, K) times (T, B, K, M), sums over K."""
    return rows * columns if columns.shape[-2] == 1 else rows @ columns


class _Block:
    """The inputs of one block of a task, and its decays and states (T, B, S, E) in two buffers."""

    def __init__(self, plan: _Plan, inputs: tuple[torch.Tensor, ...], task: Any, at: slice, softplus: bool) -> None:
        u, dt, b, c = inputs
        images, group, channels = task
        self.u = plan.load(u[at, images, channels]).unsqueeze(2)
        self.dt = plan.load(dt[at, images, channels]).unsqueeze(2)
        if softplus:
            self.dt = F.softplus(self.dt)
        self.b = plan.load(b[at, images, group]).unsqueeze(2)
        self.c = plan.load(c[at, images, group]).unsqueeze(2)
        self.moved = self.dt * self.u

    def fit(self, buffers: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The buffers, of which the last blocks and tasks need a part."""
        tokens, images, _, channels = self.u.shape
        return buffers[:, :tokens, :images, :, :channels].unbind(0)

    def scan(self, plan: _Plan, buffers: torch.Tensor, rates: torch.Tensor, state: torch.Tensor) -> None:
        self.decay, self.h, *_ = self.fit(buffers)
        torch.mul(self.dt, rates, out=self.decay)
        self.decay.exp_()
        torch.mul(self.moved, self.b.transpose(2, 3), out=self.h)
        recur_(self.h, self.decay, state, plan.short)


def _forward(u, dt, a, b, c, d, softplus: bool, reverse: bool, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and the states before all blocks but the first (blocks - 1, B, S, E), if they are to be kept."""
    plan = _Plan(u, a, b.shape[1], reverse)
    out = _like(u)
    starts = u.new_empty(_starts_shape(plan, u, a, keep), dtype=plan.acc)
    inputs = tuple(_tokens_first(t) for t in (u, dt, b, c))
    rates = a.to(plan.acc).t().contiguous()
    buffers = _buffers(plan, u, len(rates), 2)
    for task in plan.tasks:
        images, _, channels = task
        rate = rates[:, channels].contiguous()
        direct = None if d is None else d[channels].to(plan.acc)
        state = buffers.new_zeros(images.stop - images.start, *rate.shape)
        for number in range(plan.blocks):
            if keep and number:
                starts[number - 1, images, :, channels] = state
            at = plan.at(number)
            block = _Block(plan, inputs, task, at, softplus)
            block.scan(plan, buffers, rate, state)
            y = _contract(block.c, block.h)
            if direct is not None:
                y.addcmul_(block.u, direct)
            plan.store(_tokens_first(out)[at, images, channels], y.squeeze(2))
            state = block.h[-1].clone()
    return out, starts


def _backward(grad, starts, u, dt, a, b, c, d, softplus: bool, reverse: bool) -> list[torch.Tensor]:
    """The gradients of u, dt, a, b, c and d, the last one empty where there is no d."""
    plan = _Plan(u, a, b.shape[1], reverse)
    inputs = tuple(_tokens_first(t) for t in (u, dt, b, c))
    grad = _tokens_first(grad)
    rates = a.to(plan.acc).t().contiguous()
    du, ddt = _like(u), _like(dt)
    d_rates = torch.zeros_like(rates)
    batch, groups, states, tokens = b.shape
    # sums over the channels of a group, to which several tasks may contribute
    db, dc = (rates.new_zeros(tokens, batch, groups, states) for _ in range(2))
    dd = rates.new_zeros(0 if d is None else len(d))
    buffers = _buffers(plan, u, states, 3)
    for task in plan.tasks:
        images, group, channels = task
        rate = rates[:, channels].contiguous()
        direct = None if d is None else d[channels].to(plan.acc)
        before = buffers.new_zeros(images.stop - images.start, *rate.shape)
        # what the states before a block get from the tokens after it
        carried = before
        for number in reversed(range(plan.blocks)):
            at = plan.at(number)
            block = _Block(plan, inputs, task, at, softplus)
            start = starts[number - 1, images, :, channels] if number else before
            block.scan(plan, buffers, rate, start)
            dy = plan.load(grad[at, images, channels]).unsqueeze(2)
            decay, h, g = block.fit(buffers)
            plan.add(dc[at, images, group], _sum_channels(dy, h))
            # g_t = C_t dy_t + decay_(t+1) g_(t+1), the gradient of the states
            torch.mul(dy, block.c.transpose(2, 3), out=g)
            g[-1] += carried
            if len(g) > 1:
                recur_(g[:-1], decay[1:], g[-1], plan.short, backwards=True)
            plan.add(db[at, images, group], _sum_channels(block.moved, g))
            moved = _contract(block.b, g)
            # from here on the gradient of the exponents dt A: g_t decay_t h_(t-1)
            g.mul_(decay)
            carried = g[0].clone()
            g[1:].mul_(h[:-1])
            g[0].mul_(start)
            d_rates[:, channels] += torch.mul(g, block.dt, out=decay).sum((0, 1))
            d_step = g.mul_(rate).sum(2, keepdim=True).addcmul_(moved, block.u)
            if softplus:
                d_step.mul_(-torch.expm1(-block.dt))
            d_u = moved.mul_(block.dt)
            if direct is not None:
                d_u.addcmul_(dy, direct)
                dd[channels] += (dy * block.u).sum((0, 1, 2))
            plan.store(_tokens_first(du)[at, images, channels], d_u.squeeze(2))
            plan.store(_tokens_first(ddt)[at, images, channels], d_step.squeeze(2))
    db, dc = (sums.movedim(0, -1).to(t.dtype, memory_format=torch.contiguous_format) for sums, t in ((db, b), (dc, c)))
    return [du, ddt, d_rates.t().to(a.dtype).contiguous(), db, dc, dd if d is None else dd.to(d.dtype)]


def _starts_shape(plan: _Plan, u: torch.Tensor, a: torch.Tensor, keep: bool) -> tuple[int, ...]:
    return (plan.blocks - 1 if keep else 0, u.shape[0], a.shape[1], a.shape[0])


def _buffers(plan: _Plan, u: torch.Tensor, states: int, count: int) -> torch.Tensor:
    images, _, channels = plan.tasks[0]
    shape = (count, plan.step, images.stop - images.start, states, channels.stop - channels.start)
    return torch.empty(shape, dtype=plan.acc, device=u.device)


def _sum_channels(x: torch.Tensor, of_states: torch.Tensor) -> torch.Tensor:
    """(T, B, 1, E) and (T, B, S, E) to (T, B, S), summed over E."""
    if of_states.shape[2] == 1:
        return (x * of_states).sum(-1)
    return (x @ of_states.transpose(2, 3)).squeeze(2)


@torch.library.custom_op("monai_ext::selective_scan", mutates_args=())
def _scan_op(
    u: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None,
    softplus: bool,
    reverse: bool,
    keep: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.autocast(u.device.type, enabled=False):
        return _forward(u, dt, a, b, c, d, softplus, reverse, keep)


@torch.library.custom_op("monai_ext::selective_scan_backward", mutates_args=())
def _scan_backward_op(
    grad: torch.Tensor,
    starts: torch.Tensor,
    u: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    d: torch.Tensor | None,
    softplus: bool,
    reverse: bool,
) -> list[torch.Tensor]:
    with torch.autocast(u.device.type, enabled=False):
        return _backward(grad, starts, u, dt, a, b, c, d, softplus, reverse)


@_scan_op.register_fake
def _(u, dt, a, b, c, d, softplus, reverse, keep):
    plan = _Plan(u, a, b.shape[1], reverse)
    return _like(u), u.new_empty(_starts_shape(plan, u, a, keep), dtype=plan.acc)


@_scan_backward_op.register_fake
def _(grad, starts, u, dt, a, b, c, d, softplus, reverse):
    return [
        _like(u),
        _like(dt),
        *(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, b, c)),
        (starts.new_empty(0) if d is None else torch.empty_like(d)),
    ]


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[torch.Tensor, torch.Tensor]) -> None:
    *tensors, ctx.softplus, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, output[1])


def _differentiate(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    u, dt, a, b, c, d, starts = ctx.saved_tensors
    *grads, dd = _scan_backward_op(grad, starts, u, dt, a, b, c, d, ctx.softplus, ctx.reverse)
    return (*grads, None if d is None else dd, None, None, None)


_scan_op.register_autograd(_differentiate, setup_context=_keep)
