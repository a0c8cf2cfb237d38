"""A curve as SVG, with nothing but Python: both axes logarithmic, every point labelled."""

import html
import math

WIDTH, HEIGHT, LEFT, TOP, RIGHT, BOTTOM = 560, 320, 70, 40, 20, 50


def scale(values, low, high):
    """A function that puts the values' logarithms between low and high."""
    least, most = math.log10(min(values)), math.log10(max(values))
    span = (most - least) or 1
    return lambda value: low + (math.log10(value) - least) / span * (high - low)


def draw(path, title, x_title, y_title, points):
    """Writes one curve of points [(x, y)]."""
    xs, ys = zip(*points)
    to_x = scale(xs, LEFT, WIDTH - RIGHT)
    # At least a decade of height, so that noise does not look like growth.
    middle = math.sqrt(min(ys) * max(ys))
    reach = max(math.sqrt(max(ys) / min(ys)), math.sqrt(10))
    to_y = scale((middle / reach, middle * reach), HEIGHT - BOTTOM, TOP)
    spots = [(to_x(x), to_y(y), x, y) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y, _, _ in spots)
    base = HEIGHT - BOTTOM
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
           'font-family="sans-serif" font-size="12">',
           f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
           f'<text x="{LEFT}" y="20" font-size="14">{html.escape(title)}</text>',
           f'<path d="M{LEFT},{TOP}V{base}H{WIDTH - RIGHT}" stroke="black" fill="none"/>',
           f'<text x="{WIDTH / 2}" y="{HEIGHT - 12}" text-anchor="middle">'
           f"{html.escape(x_title)}</text>",
           f'<text transform="translate(18,{HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
           f"{html.escape(y_title)}</text>",
           f'<polyline points="{line}" stroke="#1f77b4" stroke-width="2" fill="none"/>']
    for at_x, at_y, x, y in spots:
        out.append(f'<circle cx="{at_x:.1f}" cy="{at_y:.1f}" r="4" fill="#1f77b4"/>')
        out.append(f'<text x="{at_x:.1f}" y="{at_y - 9:.1f}" text-anchor="middle">{y:.3g}</text>')
        out.append(f'<text x="{at_x:.1f}" y="{base + 17}" text-anchor="middle">{x:,}</text>')
    path.write_text("\n".join([*out, "</svg>", ""]), encoding="utf-8")
