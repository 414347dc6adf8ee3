"""Figures as text."""

import os
import platform
import statistics


def median(values):
    """The median of what is known, or None."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def figure(value, digits=0):
    return "n/a" if value is None else f"{value:,.{digits}f}"


def show(head, rows, out):
    """Prints rows in columns; the first column to the left, the others to the right."""
    cells = [list(map(str, row)) for row in [head, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    for number, row in enumerate(cells):
        first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:])
        print("  ".join([first, *(cell.rjust(width) for cell, width in rest)]), file=out)
        if number == 0:
            print("  ".join("-" * width for width in widths), file=out)
    print(file=out, flush=True)


def machine():
    """One line on what this ran on."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} x {model}, {memory:.0f} GiB, Linux {platform.release()}, "
        f"load {load:.2f} at the start"
    )
