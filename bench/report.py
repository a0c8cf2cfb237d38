"""A run's figures as Markdown, one row for all peers of a figure: docs/performance/figures.md.

Only the peers' ratios stand in a row: how many times the peer's figure ours is, so for times less
is better, and for rates and bandwidths more. Targets are bold where they were missed.
"""

NAMED = ("native", "overlayfs", "fuse-overlayfs", "passthrough_ll")
HEAD = (f"| what | value | {' | '.join('x ' + peer for peer in NAMED)} | x another | target |\n"
        f"|---|---|{'---|' * len(NAMED)}---|---|\n")


def ratio(row):
    return "" if row["ratio"] is None else f"{row['ratio']:.3g}"


def verdict(rows):
    """The targets of one figure, each with its peer."""
    told = []
    for row in rows:
        if "aim" in row:
            beside = f" {row['peer']}" if row["aim"].endswith("x") else ""
            text = f"{row['aim']}{beside}"
            told.append(f"{text} met" if row["met"] else f"**{text} missed**")
    return "; ".join(told)


def line(rows):
    """One figure beside all its peers."""
    first = rows[0]
    value = f"{first['value']:g} {first['unit']}".strip()
    if "p99" in first:
        value += f" (p99 {first['p99']:g})"
    by_peer = {row["peer"]: row for row in rows}
    cells = [ratio(by_peer[peer]) if peer in by_peer else "" for peer in NAMED]
    others = [f"{ratio(row)} {peer} ({row['peer_value']:g})" for peer, row in by_peer.items()
              if peer not in NAMED and row["peer_value"] is not None]
    return f"| {' | '.join([first['name'], value, *cells, ', '.join(others), verdict(rows)])} |\n"


def markdown(table, machine):
    """All figures of a table, under the titles of their pieces."""
    judged = [row for row in table.rows if "aim" in row]
    met = sum(row["met"] for row in judged)
    text = (f"# Figures of one run\n\n{machine}. {met} targets met, {len(judged) - met} missed. "
            "Ratios are times the peer's figure.\n")
    for title in dict.fromkeys(row["group"] for row in table.rows):
        text += f"\n## {title}\n\n{HEAD}"
        rows = [row for row in table.rows if row["group"] == title]
        for name in dict.fromkeys(row["name"] for row in rows):
            text += line([row for row in rows if row["name"] == name])
    return text
