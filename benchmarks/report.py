"""Figures as tables in the README and as SVG plots in docs/, written without a library."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from math import ceil, log10
from pathlib import Path

__all__ = ["Row", "between_markers", "machine", "plot", "table"]

Row = tuple[str, str, str]
_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 420, 240, 58, 40, 30


def machine(server: str) -> str:
    """Return a line with the machine, the server and the versions of the installed candidates."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    except OSError:
        models = []
    import psutil

    cores = f"{psutil.cpu_count()} cores"
    measured = [name for name in ("redis", "streamz", "faststream", "walrus", "bytewax") if find_spec(name)]
    peers = ", ".join(f"{name} {version(name)}" for name in measured)
    return (
        f"{cores} ({models[0] if models else platform.machine()}), {platform.system()}, "
        f"Python {platform.python_version()}, {server}; {peers}"
    )


def table(rows: Iterable[Row], heads: Row) -> str:
    """Return a Markdown table."""
    lines = [heads, ("---", "---:", "---"), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def between_markers(path: Path, text: str) -> None:
    """Replace the text between the file's two benchmark markers."""
    begin, end = "<!-- benchmark -->", "<!-- /benchmark -->"
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, also_found, after = rest.partition(end)
    if not found or not also_found:
        msg = f"expected the markers {begin} and {end} in {path.name}"
        raise ValueError(msg)
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def plot(title: str, x_label: str, y_label: str, points: Mapping[float, float], *, logarithmic: bool = False) -> str:
    """Return an SVG of a line with marked points on a y axis from zero; `logarithmic` concerns the x axis."""
    xs, ys = list(points), list(points.values())
    scaled = [log10(x) for x in xs] if logarithmic else xs
    low, high = (min(scaled), max(scaled)) if logarithmic else (0.0, max(scaled))
    top = _rounded_up(max(ys))

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / (high - low or 1) * (_WIDTH - _LEFT - 24)
        return round(_LEFT + across, 1), round(_HEIGHT - _BOTTOM - y / top * (_HEIGHT - _BOTTOM - _TOP), 1)

    placed = [place(x, y) for x, y in zip(scaled, ys, strict=True)]
    shapes = [
        _text(_WIDTH / 2, 18, title, size=13),
        _text(_WIDTH / 2, _HEIGHT - 6, x_label),
        f'<text x="14" y="{_HEIGHT / 2}" transform="rotate(-90 14 {_HEIGHT / 2})" text-anchor="middle">{y_label}</text>',
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        _, y = place(low, share * top)
        shapes.append(f'<path d="M{_LEFT} {y}H{_WIDTH - 24}" stroke="#ddd"/>')
        shapes.append(_text(_LEFT - 6, y + 4, f"{share * top:g}", anchor="end"))
    for x, (px, _) in zip(xs, placed, strict=True):
        shapes.append(_text(px, _HEIGHT - _BOTTOM + 15, _short(x)))
    shapes.append(f'<polyline points="{_points(placed)}" fill="none" stroke="#1769aa" stroke-width="2"/>')
    shapes += [f'<circle cx="{x}" cy="{y}" r="3" fill="#1769aa"/>' for x, y in placed]
    style = 'font-family="sans-serif" font-size="11" fill="#333"'
    inner = "\n".join(shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" {style}>\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{inner}\n</svg>\n'
    )


def _rounded_up(value: float) -> float:
    step = 10 ** (ceil(log10(value)) - 1) * 2
    return ceil(value / step) * step


def _short(x: float) -> str:
    return f"{x / 1e6:g}M" if x >= 1e6 else f"{x / 1e3:g}k" if x >= 1e3 else f"{x:g}"  # noqa: PLR2004


def _points(placed: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x},{y}" for x, y in placed)


def _text(x: float, y: float, text: str, *, anchor: str = "middle", size: int = 11) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}" font-size="{size}">{text}</text>'
