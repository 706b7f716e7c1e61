"""Time and memory: mixers against the number of tokens, networks against MONAI's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

_as_text = SetParseFn(
    str,
    *("mixers", "tokens", "dims", "device", "precision", "allocator", "output_dir"),
    *("cases", "sizes", "windows", "patches", "modes", "checkpoint"),
)


@_as_text
def mixers(
    mixers: str | None = None,
    tokens: str = "1k,4k,16k,64k",
    dims: str = "2,3",
    width: int = 192,
    heads: int = 6,
    batch: int = 1,
    device: str = "auto",
    precision: str = "float32",
    threads: int | None = None,
    allocator: str = "both",
    repeats: int = 5,
    max_seconds: float = 60,
    output_dir: str = "bench_output",
    resume: bool = False,
) -> int:
    """Measure forward and backward of every mixer against fused softmax attention.

    Every case runs in a fresh process; softmax is timed in turn with the mixer where a pass of it takes less than
    40 s. What fails, or takes too long, is recorded with the reason. Exit code 1 if nothing could be measured.

    Args:
        mixers: names (a,b), or JSON with options: '["linear", {"name": "seqnorm", "scale": "sqrt_n"}]'; all by default.
        tokens: tokens of an image, powers of two.
        dims: of the images; 1k tokens are 32x32 and 16x8x8.
        width: channels of a token.
        heads: heads.
        batch: images.
        device: auto, cpu or cuda.
        precision: float32, or bfloat16 (autocast).
        threads: on a CPU; PyTorch's choice by default.
        allocator: on a CPU under Linux: default, retained (glibc keeps the memory of large tensors) or both.
        repeats: passes of which the median is taken; fewer where they are very long, more where very short.
        max_seconds: for a case; one that takes longer is not measured.
        output_dir: the folder for the results (JSON, CSV, Markdown, PNG).
        resume: go on with the results in that folder.
    """
    import torch

    from monai_ext.bench.child import find_allocators
    from monai_ext.bench.measure import find_device, machine
    from monai_ext.bench.mixers import Case, Settings, parse_dims, parse_mixers, parse_tokens, plan, run_cases
    from monai_ext.bench.report import RESULTS, summary, to_markdown
    from monai_ext.bench.results import Results

    where = find_device(device)
    settings = Settings(
        width=width,
        heads=heads,
        batch=batch,
        device=where.type,
        precision=precision,
        threads=torch.get_num_threads() if threads is None else threads,
        repeats=repeats,
        max_seconds=max_seconds,
    )
    cases = plan(parse_mixers(mixers), parse_dims(dims), parse_tokens(tokens), find_allocators(allocator, where))
    results = Results(output_dir, RESULTS, asdict(settings), machine(where, settings.threads), resume)
    done = {Case.of(record): record for record in results.kept()}
    _measure(results, cases, done, lambda announce: run_cases(cases, settings, done, announce))
    text = to_markdown(results.content)
    return _tell(results, text, summary(results.content), _write(results, text))


@_as_text
def networks(
    cases: str | None = None,
    sizes: str | None = None,
    windows: str | None = None,
    patches: str | None = None,
    modes: str = "train,inference,encoder",
    precision: str = "both",
    compile: bool = False,
    checkpoint: str | None = None,
    batch: int = 1,
    device: str = "auto",
    threads: int | None = None,
    allocator: str = "both",
    repeats: int = 5,
    max_seconds: float = 300,
    output_dir: str = "bench_output",
    resume: bool = False,
) -> int:
    """Measure MixerViT, MixerUNETR and MixerSwinUNETR against MONAI's classes with the same weights.

    First outputs and gradients of both are compared at a small size: where they differ, nothing is timed. Then both
    run in turn in one process; the peak memory of each is taken in a process of its own. What fails is recorded with
    the reason; where MONAI's fails, ours is measured alone. Exit code 1 if nothing could be measured.

    Args:
        cases: presets, such as swin_unetr,vit_192 (PRESETS in monai_ext/bench/peers.py); all by default.
        sizes: of the images along each axis, in place of the presets'.
        windows: tokens of a window along each axis, in place of the Swin presets'.
        patches: voxels of a patch along each axis, in place of the other presets'.
        modes: train (forward, loss, backward), inference (no gradients), encoder (inference of a Swin's encoder).
        precision: float32, bfloat16 (autocast) or both.
        compile: compile both networks.
        checkpoint: no, ours (against MONAI's as it is) or both (MONAI's has it in Swin only); as the presets say.
        batch: images.
        device: auto, cpu or cuda.
        threads: on a CPU; PyTorch's choice by default.
        allocator: on a CPU under Linux: default, retained (glibc keeps the memory of large tensors) or both.
        repeats: passes of which the median is taken; fewer where they are very long, more where very short.
        max_seconds: for a pass, and for all passes of a case together.
        output_dir: the folder for the results (JSON, CSV, Markdown, PNG).
        resume: go on with the results in that folder.
    """
    import torch

    from monai_ext.bench.child import find_allocators
    from monai_ext.bench.measure import find_device, machine
    from monai_ext.bench.network_report import RESULTS, describe, summary, to_csv, to_markdown
    from monai_ext.bench.networks import Case, Choice, parse_checkpoint, parse_precision, plan, run_cases
    from monai_ext.bench.peers import MODES, PRESETS
    from monai_ext.bench.plot import draw_ratios
    from monai_ext.bench.results import Results
    from monai_ext.bench.settings import RunSettings, parse_counts, parse_names

    where = find_device(device)
    threads = torch.get_num_threads() if threads is None else threads
    settings = RunSettings(batch, where.type, threads, repeats, max_seconds)
    choice = Choice(
        list(PRESETS) if cases is None else parse_names(cases, tuple(PRESETS), "cases"),
        *(
            None if text is None else parse_counts(text, field)
            for field, text in (("sizes", sizes), ("windows", windows), ("patches", patches))
        ),
        modes=parse_names(modes, MODES, "modes"),
        precisions=parse_precision(precision),
        allocators=find_allocators(allocator, where),
        checkpoint=parse_checkpoint(checkpoint),
        compiled=compile,
    )
    planned = plan(choice)
    results = Results(output_dir, RESULTS, asdict(settings), machine(where, threads), resume)
    done = {Case.of(record) for record in results.kept()}
    _measure(results, planned, done, lambda announce: run_cases(planned, settings, done, announce))
    content = results.content
    text = to_markdown(content)
    files = [results.write(".csv", to_csv(content["cases"])), results.write(".md", text)]
    files.append(draw_ratios(content["cases"], describe(content), results.path.with_suffix(".png")))
    return _tell(results, text, summary(content), files)


def _measure(results: Any, cases: Sequence[Any], done: Container[Any], run: Callable[[Any], Iterable[Any]]) -> None:
    """Runs and stores the cases under a progress bar."""
    from tqdm import tqdm

    kept = sum(case in done for case in cases)
    try:
        with tqdm(total=len(cases), initial=kept, desc=results.kind.stem, unit="case", dynamic_ncols=True) as bar:
            for record in run(lambda case: bar.set_postfix_str(str(case))):
                results.add(record)
                bar.update()
    except KeyboardInterrupt:
        print(f"{len(results.content['cases'])} cases are in {results.path}: go on with --resume.", file=sys.stderr)
        raise


def _tell(results: Any, text: str, summary: str, files: Sequence[Path]) -> int:
    print(text)
    print(f"Written: {', '.join(map(str, [results.path, *files]))}")
    print(summary)
    return 0 if any(record["status"] == "measured" for record in results.content["cases"]) else 1


def _write(results: Any, text: str) -> list[Path]:
    from monai_ext.bench.mixers import FAMILIES
    from monai_ext.bench.plot import draw
    from monai_ext.bench.report import describe, groups, to_csv

    content = results.content
    files = [results.write(".csv", to_csv(content["cases"])), results.write(".md", text)]
    for dims, allocator in groups(content["cases"]):
        inside = [r for r in content["cases"] if (r["dims"], r["allocator"]) == (dims, allocator)]
        path = results.path.with_name(f"{results.path.stem}_{dims}d_{allocator}.png")
        title = f"{dims}D, {allocator} allocator — {describe(content)}"
        files.append(draw(inside, FAMILIES, title, path))
    return files


COMMANDS = {"mixers": mixers, "networks": networks}
