"""The result as a page to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]


def page(result: Mapping[str, Any]) -> str:
    """Markdown: one section a check, in the words of what was asked."""
    gpu = result["gpu"]
    lines = [
        f"# {gpu['name']}: what its sensors tell, and whether joulescale's numbers hold on it",
        "",
        f"`{result['command']}`, {result['date']}, driver {gpu['driver']}, torch {result['software']['torch']},"
        f" Python {result['software']['python']}.",
    ]
    if result["rehearsal"]:
        lines += ["", "**A rehearsal: these numbers mean nothing.**"]
    for name, found in result["checks"].items():
        lines += ["", f"## {_TITLES[name]}", ""]
        lines += (
            ["It failed:", "", "```", found["failed"].rstrip(), "```"]
            if "failed" in found
            else _SECTIONS[name](found)
        )
    return "\n".join(lines) + "\n"


def _counter(found: Found) -> list[str]:
    steps = [
        (
            state,
            name,
            _spread(row.get("interval_ms"), 1),
            _spread(row.get("size"), 0),
            str(row.get("resolution", row.get("refused"))),
        )
        for state in ("idle", "busy")
        for name, row in found[state]["steps"].items()
    ]
    costs = [
        (
            name,
            *(
                _spread(found[state]["cost_us"][name], 1)
                if "n" in found[state]["cost_us"][name]
                else "refused"
                for state in ("idle", "busy")
            ),
        )
        for name in found["idle"]["cost_us"]
    ]
    return [
        "Intervals between two changes (p5 / p50 / p95), their sizes, and the greatest step that divides all.",
        "",
        *_table(("GPU", "quantity", "interval, ms", "size", "resolution"), steps),
        "",
        "Microseconds a call (p5 / p50 / p95):",
        "",
        *_table(("call", "idle", "busy"), costs),
    ]


def _integrals(found: Found) -> list[str]:
    rows = [
        (
            state,
            _number(row["counter_j"]),
            _number(row["counter_w"]),
            _number(row["counter_over_power_w"]),
            _number(row["counter_over_average_power_w"]),
        )
        for state, row in found.items()
        if isinstance(row, Mapping)
    ]
    return [
        *_table(("GPU", "counter, J", "mean W", "/ integral of instant", "/ integral of average"), rows),
        "",
        "A ratio of 1 means that counter and power agree.",
    ]


def _square_wave(found: Found) -> list[str]:
    rows = [
        (
            period,
            _number(row["spread"]),
            _number(row["relative_sd"]),
            ", ".join(_number(p) for p in row["mean_power_w"]),
        )
        for period, row in found.items()
        if isinstance(row, Mapping)
    ]
    return [
        "A load that is on for half of every period, at ten phases; mean power by the counter. A counter that sees all"
        " of the time gives the same at every phase.",
        "",
        *_table(("period", "(max - min) / mean", "sd / mean", "watts at each phase"), rows),
    ]


def _activity(found: Found) -> list[str]:
    return _table(
        ("quantity", "value"),
        [
            ("FLOP/s reached", _number(found["flops_per_s"])),
            ("share of the dense bf16 peak", _number(found["share_of_dense_bf16_peak"])),
            ("tensor activity by GPM", _number(found["tensor_activity"])),
            ("SM activity by GPM", _number(found["sm_activity"])),
            ("DRAM activity by GPM", _number(found["dram_activity"])),
            ("tensor activity when idle", _number(found["idle"]["tensor_activity"])),
        ],
    )


def _sampling(found: Found) -> list[str]:
    rows = [
        (rate, _number(row["median"], 5), _number(row["least"], 5), _number(row["most"], 5))
        for rate, row in found["ratio"].items()
    ]
    return [
        f"Step time with the sensors read over that without ({found['step_ms_without']:.2f} ms a step).",
        "",
        *_table(("rate", "median of rounds", "least", "most"), rows),
    ]


def _phases(found: Found) -> list[str]:
    rows = []
    for part, ratio in found["recorded_over_apart"].items():
        own, apart = found["recorded_a_step"].get(part, {}), found["apart_a_step"][part]
        rows.append(
            (
                part,
                _number(own.get("seconds")),
                _number(apart["seconds"]),
                _number(ratio["seconds"]),
                f"{_number(own.get('joules'))} ± {_number(own.get('plus_minus'))}",
                _number(apart["joules"]),
                _number(ratio["joules"]),
            )
        )
    return _table(("phase", "s a step", "s apart", "ratio", "J a step", "J apart", "ratio"), rows)


def _language_model(found: Found) -> list[str]:
    efficiency, energy = found["efficiency"], found["energy"]
    rows = [
        ("width", str(found["settings"]["d_model"])),
        ("parameters", _number(found["params"])),
        ("tokens", _number(found["tokens"])),
        ("tokens/s", _number(found["throughput"]["tokens_per_s"])),
        ("FLOP/s", _number(efficiency["flops_per_s"])),
        ("MFU", _number(efficiency["mfu"])),
        ("measured energy, J", f"{_number(energy['measured_j'])} ± {_number(energy['measured_plus_minus_j'])}"),
        ("J/token", _number(efficiency["energy_per_token_j"])),
        ("loss", _number(found["loss"])),
    ]  # fmt: skip
    said = [f"* {finding['says']}" for finding in found["verdict"] or ()]
    return [*_table(("quantity", "value"), rows), "", *said]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        f"| {' | '.join(head)} |",
        f"|{'---|' * len(head)}",
        *(f"| {' | '.join(row)} |" for row in rows),
    ]


def _number(value: float | None, digits: int = 4) -> str:
    return "unknown" if value is None else f"{value:.{digits}g}"


def _spread(found: Mapping[str, Any] | None, decimals: int) -> str:
    if not found or found.get("p50") is None:
        return "never changed"
    return " / ".join(f"{found[q]:.{decimals}f}" for q in ("p5", "p50", "p95"))


_TITLES = {
    "counter": "How the counter and the powers move, and what asking costs",
    "integrals": "The counter against integrated power, one minute each",
    "square_wave": "Does the counter see all of the time?",
    "activity": "GPM against a known matrix product",
    "sampling": "What sampling costs a training",
    "phases": "Phases of a real training against the same parts run apart",
    "language_model": "The `lm` gpu preset",
}
_SECTIONS: Mapping[str, Callable[[Found], list[str]]] = {
    "counter": _counter,
    "integrals": _integrals,
    "square_wave": _square_wave,
    "activity": _activity,
    "sampling": _sampling,
    "phases": _phases,
    "language_model": _language_model,
}
