"""The table of a run: every figure beside the least that the device could take."""

STEP = {"edit": 2000.2e9, "SDXL step": 14.89e12}  # FLOPs of our guided step, nothing done twice
VAE = 1116.7e9 + 2514.5e9  # of encoding and decoding at 512 px
STEPS = 50


def floor(figure, peak):
    """The row's value if every counted FLOP ran at `peak` FLOP/s; None where nothing is counted."""
    case, batch = figure["case"].split(" with ")[0], 1
    kind, _, last = case.rpartition(" b")
    if kind and last.isdigit():
        batch = int(last)
    if figure["unit"] == "samples/s":
        return peak / figure["useful"]
    if kind in ("train", "FireEdit"):
        return 1e3 * figure["useful"] / peak if "useful" in figure else None
    if kind == "edit":
        return 1e3 * batch * (STEPS * STEP["edit"] + VAE) / peak
    if kind == "SDXL step":
        return 1e3 * batch * STEP["SDXL step"] / peak
    return None


def shown(value):
    """A number with three digits that count."""
    return f"{value:.1e}" if value and abs(value) < 0.01 else f"{value:.4g}"


def table(results):
    """Returns the results in Markdown."""
    rows = [one for one in results["rows"] if "value" in one]
    ceilings = {one["case"]: one["value"] for one in rows if one["side"] == "ceiling"}
    peak = 1e12 * ceilings.get("bf16 product", float("nan"))
    useful = {one["case"]: one["useful"] for one in rows if "useful" in one}
    lines = [
        f"{results.get('card', '')}; jax {results.get('jax')}, torch {results.get('torch')}",
        "",
    ]
    lines += ["| case | side | figure | floor | share | ours is faster by | first, s | peak, GiB |"]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for one in rows:
        lines.append(_line(one, peak, useful, rows))
    for name, part in results["parts"].items():
        if "failed" in part or part.get("cut"):
            lines += ["", f"{name}: {part.get('failed', 'cut off by its time')}"]
    for one in results["rows"]:
        if "failed" in one:
            lines += ["", f"{one['case']}, {one['side']}: {one['failed']}"]
    return "\n".join(lines)


def _line(one, peak, useful, rows):
    case, side, unit = one["case"], one["side"], one["unit"]
    least = floor({"useful": useful.get(case, float("nan"))} | one, peak)
    ours = {row["case"]: row["value"] for row in rows if row["side"] == "brushjax"}
    share = faster = ""
    if least is not None and side != "ceiling":
        ratio = one["value"] / least if unit == "samples/s" else least / one["value"]
        share = f"{100 * ratio:.0f} %"
    if side not in ("brushjax", "ceiling") and case in ours:
        faster = f"{one['value'] / ours[case]:.2f}"
    if "passed" in one:
        share = "within" if one["passed"] else f"BEYOND {one['bound']:g}"
    first = f"{one['first']:.1f}" if "first" in one else ""
    held = f"{one['peak'] / 2**30:.1f}" if one.get("peak") else ""
    least = "" if least is None or side == "ceiling" else shown(least)
    figure = f"{shown(one['value'])} {unit}"
    return "| " + " | ".join((case, side, figure, least, share, faster, first, held)) + " |"
