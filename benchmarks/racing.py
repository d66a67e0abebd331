"""Two files against each other, for the benchmarks."""

import whet


def race(first, second, what, size):
    """Print how many times as fast the second file is as the first, on one thread, in turns."""
    standing = whet.bench(first, second, batch_sizes=(size,), threads=1)[1]
    speed = next(item for item in standing.measurements if item.metric == "speedup")
    limits = f"{speed.interval.low:.2f} to {speed.interval.high:.2f}"
    print(f"   batch {size}: {what}: {speed.value:.2f}x ({limits}) {speed.conditions.get('noise', '')}", flush=True)
