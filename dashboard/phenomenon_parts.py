"""What one experiment showed: its verdict, pictures, figures, costs and trainings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboard.charts import Height, draw
from dashboard.data import command_line, run_curves
from dashboard.phenomenon_list import Listed
from dashboard.plain import plain
from dashboard.tables import draw_table
from profiler.report.phenomena import Across, Picture, Seen, pictures
from profiler.report.phenomenon_rows import arm_cells, break_even_texts, cost_texts, figure_texts
from profiler.report.tables import ESTIMATED

_HEIGHT, _WIDE_HEIGHT = 320, 380
_COLOURS = {"shown": "green", "not shown": "red", "can't tell": "orange"}
_ACROSS: Mapping[Across, str] = {"steps": "Steps, sizes", "energy": "Joules"}

_text = st.column_config.TextColumn


def verdict(one: Listed) -> None:
    """The verdict over all seeds, why, and by which criterion."""
    group = one.together
    asked, runs = group["asked_seeds"], len(group["runs"])
    with st.container(border=True, gap="xsmall"):
        st.markdown(f":{_COLOURS[group['outcome']]}[**{plain(group['outcome'])}**], {plain(_count(group))}")
        st.caption(f"Criterion, fixed before: {plain(group['criterion'])}")
        for name, found in one.found.items():
            if runs == 1 or found["outcome"] != "shown":
                who = one.seeds[name] if runs == 1 else f"{one.seeds[name]}, {found['outcome']}"
                st.markdown(f":gray[{plain(who)}:] {plain(found['reason'])}")
    if asked is not None and runs < asked and None not in (group["workload"], group["preset"]):
        st.caption(
            f"{asked} seeds are asked for, and {runs} {'was' if runs == 1 else 'were'} run. Run the others:"
        )
        seeds = ",".join(map(str, range(asked)))
        command_line(f"sweep {group['workload']} --preset {group['preset']} --seeds {seeds}")


def chosen_runs(one: Listed) -> list[str]:
    """The runs of the seeds that the reader chose; all at first."""
    if len(one.found) < 2:
        return list(one.found)
    by_name = {one.seeds[name]: name for name in one.found}
    chosen = st.multiselect(
        "Seeds", list(by_name), placeholder="All seeds", key=f"phenomena_seeds_{one.label}"
    )
    return [by_name[seed] for seed in chosen or by_name]


def drawn(one: Listed, runs: Sequence[str]) -> None:
    """The experiment's pictures, two a row."""
    across: Across = st.radio(
        "Draw against",
        list(_ACROSS),
        format_func=_ACROSS.__getitem__,
        horizontal=True,
        key="phenomena_across",
    )
    seen = [
        Seen(
            label=one.seeds[name],
            curves=run_curves(name),
            figures=one.found[name]["figures"],
            costs=one.found[name]["costs"],
        )
        for name in runs
    ]
    place = None
    for picture in pictures(one.together["workload"], seen, across):
        place = None if picture.is_wide else place or iter(st.columns(2))
        column = next(place, None) if place else st.container()
        if column is None:
            place = iter(st.columns(2))
            column = next(place)
        with column:
            draw(picture.make, key=f"phenomenon_{picture.key}", height=_height(picture))


def _height(picture: Picture) -> Height:
    if picture.is_sized:
        return "own"
    return _WIDE_HEIGHT if picture.is_wide else _HEIGHT


def figures(one: Listed, runs: Sequence[str]) -> None:
    """What the criterion was held against, a column a seed."""
    _by_seed("Figures", "figure", one, {name: figure_texts(one.found[name]["figures"]) for name in runs})


def costs(one: Listed, runs: Sequence[str]) -> None:
    """What parts of the experiment cost, a column a seed."""
    _by_seed(
        "Costs",
        "cost",
        one,
        {name: cost_texts(one.found[name]) | break_even_texts(one.found[name]) for name in runs},
    )


def arms(one: Listed, runs: Sequence[str]) -> None:
    """Each training with its steps, time and joules."""
    rows = [
        {"training": arm["arm"], "seed": one.seeds[name], "params": _params(arm), **_cells(arm)}
        for name in runs
        for arm in one.found[name]["arms"]
    ]
    if not rows:
        return
    st.subheader("Trainings")
    widths = {"training": 220, "seed": 90, "params": 110, "steps": 90, "time": 110, "energy": 230}
    columns = {name: _text(name.capitalize(), width=width) for name, width in widths.items()}
    draw_table(rows, columns, key="phenomenon_arms")
    estimated = any(arm["source"] == "estimated" for name in runs for arm in one.found[name]["arms"])
    said = "Of training alone: evaluations and the making of data are not in it."
    st.caption(plain(f"{said} {ESTIMATED[:1].upper()}{ESTIMATED[1:]}." if estimated else said))


def _count(group: Mapping[str, Any]) -> str:
    runs, asked = len(group["runs"]), group["asked_seeds"]
    if runs == 1 and asked in (None, 1):
        return "one seed, and one is asked for" if asked else "it did not come to its end"
    text = f"in {group['shown']} of {runs} {'seed' if runs == 1 else 'seeds'}"
    return f"{text}; the criterion asks for {group['shown_in']} of {asked}" if asked else text


def _by_seed(heading: str, first: str, one: Listed, texts: Mapping[str, Mapping[str, str]]) -> None:
    names = dict.fromkeys(name for found in texts.values() for name in found)
    if not names:
        return
    st.subheader(heading)
    columns = {first: _text(first.capitalize(), width=330, pinned=True)}
    columns |= {one.seeds[run]: _text(one.seeds[run].capitalize(), width=190) for run in texts}
    rows = [
        {first: name, **{one.seeds[run]: found.get(name) for run, found in texts.items()}} for name in names
    ]
    draw_table(rows, columns, key=f"phenomenon_{first}s")


def _cells(arm: Mapping[str, Any]) -> dict[str, str]:
    return dict(zip(("steps", "time", "energy"), arm_cells(arm), strict=True))


def _params(arm: Mapping[str, Any]) -> str | None:
    params = arm["facts"].get("params")
    return None if params is None else f"{params:,}"
