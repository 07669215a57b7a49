"""The tables of what serving and walking forward measured."""

from collections.abc import Sequence
from typing import Any

from qin.experiments.backtest import table

PARTS = {"score": "the whole call", "encode": "encoding", "network": "network alone", "trees": "trees alone"}
LOAD_HEADER = ("rows of a request", "clients", "requests per second", "p50 ms", "p99 ms")


def latency_rows(result: dict[str, Any]) -> list[Sequence[str]]:
    """Processor milliseconds by number of rows: of the whole call median and fastest, of its parts the fastest."""
    rows: list[Sequence[str]] = [
        ("rows", f"{PARTS['score']}, median", *(f"{name}, fastest" for name in PARTS.values()))
    ]
    for size, figures in result["milliseconds"].items():
        fastest = [f"{figures[part]['cpu_best']:.2f}" if part in figures else "" for part in PARTS]
        rows.append((size, f"{figures['score']['cpu_median']:.2f}", *fastest))
    return rows


def load_rows(result: dict[str, Any]) -> list[Sequence[str]]:
    """Requests per second and their times, by rows of a request and clients."""
    rows: list[Sequence[str]] = [LOAD_HEADER]
    for size, loads in result["service"].items():
        for load in loads:
            times = [f"{load[key]:.0f}" for key in ("p50", "p99")]
            rows.append((size, f"{load['clients']}", f"{load['requests_per_second']:.0f}", *times))
    return rows


def flood_line(result: dict[str, Any]) -> str:
    """What a flood did, in a sentence."""
    flood = result["flood"]
    answered, refused = (flood["statuses"].get(status, 0) for status in ("200", "503"))
    others = sum(flood["statuses"].values()) - answered - refused
    after = "it was alive afterwards" if result["alive_after_flood"] else "it did not live"
    rest = f", {others} got something else" if others else ""
    return (
        f"Flooded by {flood['clients']} clients with requests of 512 rows, it answered {answered} and turned {refused} "
        f"away with 503{rest}; {after}."
    )


def backtest_block(result: dict[str, Any]) -> str:
    """The walk as `qin backtest` prints it."""
    return "\n".join(("```text", *table(result), "```"))
