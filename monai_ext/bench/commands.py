"""Time and memory against the number of tokens."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fire.decorators import SetParseFn

_as_text = SetParseFn(str, "mixers", "tokens", "dims", "device", "precision", "allocator", "output_dir")


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
    from tqdm import tqdm

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
    kept = sum(case in done for case in cases)
    try:
        with tqdm(total=len(cases), initial=kept, desc="mixers", unit="case", dynamic_ncols=True) as bar:
            for record in run_cases(cases, settings, done, lambda case: bar.set_postfix_str(str(case))):
                results.add(record)
                bar.update()
    except KeyboardInterrupt:
        print(f"{len(results.content['cases'])} cases are in {results.path}: go on with --resume.", file=sys.stderr)
        raise
    text = to_markdown(results.content)
    files = [results.path, *_write(results, text)]
    print(text)
    print(f"Written: {', '.join(map(str, files))}")
    print(summary(results.content))
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


COMMANDS = {"mixers": mixers}
