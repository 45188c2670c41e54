"""Draws the rooms of the package and the arrows between them, from the imports in the code.

A room stands above all rooms that it imports. Writes ``house.svg`` beside this script.

    python docs/draw_house.py
"""

import ast
from pathlib import Path

HERE = Path(__file__).parent
PACKAGE = HERE.parent / "lightning_clr"
PURE, TORCH, LIGHTNING, TRIAL = (
    "imports neither torch nor Lightning",
    "imports torch",
    "asks Lightning, by public names",
    "trial/: real steps that leave no trace, with Lightning's private names",
)
COLOURS = {PURE: "#dcefdc", TORCH: "#fff3cd", LIGHTNING: "#d9e8f6", TRIAL: "#f6dcd9"}
WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 124, 30, 14, 52, 20


def rooms():
    """Each room with the rooms it imports and the packages it imports; ``trial/`` is one room."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        name = "trial" if path.parent.name == "trial" else path.stem
        if name == "__init__":
            continue
        ours, others = found.setdefault(name, (set(), set()))
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for package, *rest in (full.split(".") for full in names):
                (ours if package == "lightning_clr" else others).add(rest[0] if package == "lightning_clr" else package)
        ours.discard(name)
    return found


def floors(found):
    """The height of each room: one more than that of the highest room it imports."""
    heights = {}
    while len(heights) < len(found):
        for name, (ours, _) in found.items():
            if ours <= heights.keys():
                heights.setdefault(name, 1 + max((heights[below] for below in ours), default=-1))
    return heights


def direct(found):
    """The arrows that are not implied by a longer way, so that the picture stays readable."""
    reach = {}

    def reached(name):
        if name not in reach:
            reach[name] = set().union(*({below} | reached(below) for below in found[name][0]))
        return reach[name]

    for name, (ours, _) in found.items():
        for below in sorted(ours):
            if not any(below in reached(other) for other in ours - {below}):
                yield name, below


def kind(name, found):
    """Which of the four kinds a room is of, by what it imports itself."""
    ours, others = found[name]
    if name == "trial":
        return TRIAL
    if name == "lightning" or ours & {"lightning", "trial"} or others & {"lightning_utilities", "torchmetrics"}:
        return LIGHTNING
    return TORCH if "torch" in others else PURE


def places(heights, arrows):
    """Left and upper corner of each room; rooms of a floor are ordered by what they stand on."""
    top, columns = max(heights.values()), {}
    for height in range(top + 1):
        on_floor = [name for name in heights if heights[name] == height]
        below = {name: [columns[under] for over, under in arrows if over == name] for name in on_floor}
        on_floor.sort(key=lambda name: (sum(below[name]) / len(below[name]) if below[name] else 0, name))
        start = -len(on_floor) / 2
        columns |= {name: start + index for index, name in enumerate(on_floor)}
    left = min(columns.values())
    return {
        name: (MARGIN + (column - left) * (WIDTH + GAP_X), MARGIN + (top - heights[name]) * (HEIGHT + GAP_Y))
        for name, column in columns.items()
    }


def port(room, others, other, corners):
    """Where the arrow to or from ``other`` meets a room: side by side, in the order of the rooms at the far ends."""
    place = sorted(others, key=corners.get).index(other)
    return round(corners[room][0] + WIDTH * (place + 1) / (len(others) + 1), 1)


def draw():
    """The picture, as SVG."""
    found = rooms()
    arrows = list(direct(found))
    corners = places(floors(found), arrows)
    width = max(x for x, _ in corners.values()) + WIDTH + MARGIN
    height = max(y for _, y in corners.values()) + HEIGHT + MARGIN + 20 * len(COLOURS)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" font-family="sans-serif"'
        ' font-size="13">',
        "<title>The rooms of lightning_clr, and what each imports</title>",
        '<defs><marker id="head" markerWidth="8" markerHeight="8" refX="7" refY="4" orient="auto">'
        '<path d="M0,1 L7,4 L0,7 z" fill="#555"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="white"/>',
    ]
    for over, under in arrows:
        x1, y1 = port(over, [end for start, end in arrows if start == over], under, corners), corners[over][1] + HEIGHT
        x2, y2 = port(under, [start for start, end in arrows if end == under], over, corners), corners[under][1]
        bend = GAP_Y * 0.7
        way = f"M{x1:g},{y1:g} C{x1:g},{y1 + bend:g} {x2:g},{y2 - bend:g} {x2:g},{y2:g}"
        parts.append(f'<path d="{way}" fill="none" stroke="#888" marker-end="url(#head)"/>')
    for name, (x, y) in corners.items():
        label = "trial/" if name == "trial" else name
        parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{WIDTH}" height="{HEIGHT}" rx="5" fill="{COLOURS[kind(name, found)]}"'
            f' stroke="#444"/><text x="{x + WIDTH / 2:g}" y="{y + 20:g}" text-anchor="middle">{label}</text>'
        )
    for line, (label, colour) in enumerate(COLOURS.items()):
        y = height - MARGIN - 20 * (len(COLOURS) - line) + 14
        parts.append(
            f'<rect x="{MARGIN}" y="{y:g}" width="14" height="14" fill="{colour}" stroke="#444"/>'
            f'<text x="{MARGIN + 22}" y="{y + 12:g}">{label}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


if __name__ == "__main__":
    (HERE / "house.svg").write_text(draw())
