"""A run whose every text wants to do harm: to a terminal, to Markdown, to JSON. It is shown, and does none."""

from __future__ import annotations

import io
import json
import os
import re
import shutil

import pytest
from fixtures_runs import ROOT
from fixtures_scripted import Script, cpu_only, scripted_run
from rich.console import Console
from rich.text import Text

from profiler.cli.main import main
from profiler.measure.session import RunFacts
from profiler.report.visible import Visible, visible
from profiler.store.manifest import _CHECKSUM

PICTURE = "![x](http://evil.example/x.png)"
HOSTILE = (
    f"\x1b]0;owned\x07\x1b[2J\x9b31m\u202e[link=http://evil.example]x[/link] {PICTURE} <img src=x> \udcff"
)


def forged(values):
    """A file as somebody would write it who knows how: one without a checksum is of an earlier version."""
    return json.dumps({name: value for name, value in values.items() if name != _CHECKSUM})


@pytest.fixture(scope="module")
def hostile_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    run_dir = scripted_run(folder, Script(), counters=cpu_only, name="harmless", facts=RunFacts()).path
    evil = run_dir.rename(folder / "\x1b[2J[link]b")
    manifest = json.loads((evil / "run.json").read_text())
    texts = dict.fromkeys(("run_id", "workload", "preset", "status", "created_at", "flops_source"), HOSTILE)
    manifest |= texts | {"notes": {HOSTILE: HOSTILE, "mfu": HOSTILE}, "settings": {HOSTILE: HOSTILE}}
    manifest["hardware"] |= {"host": HOSTILE, "cpu": HOSTILE}
    del manifest["checksum"]
    (evil / "run.json").write_text(json.dumps(manifest))
    (process,) = evil.glob("attempt-*/*/process.json")
    own = json.loads(process.read_text())
    own |= {"host": HOSTILE, "notes": {"sensor x": HOSTILE}}
    own["meters"] = [meter | {"name": HOSTILE, "notes": [HOSTILE]} for meter in own["meters"]]
    del own["checksum"]
    process.write_text(forged(own))
    (evil / "attempt-1" / "\x1b[2Jhost-0-1").mkdir()
    shutil.copytree(evil, folder / "no text \udcff")
    broken = folder / "\x1b]0;broken\x07"
    broken.mkdir()
    (broken / "run.json").write_text(f'"{HOSTILE}'.encode("utf-8", "surrogateescape").decode("latin-1"))
    return folder


@pytest.fixture
def say(hostile_runs, monkeypatch, capsys):
    """What the command says over the hostile runs, on both streams."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["joulescale", *arguments, "--runs-dir", str(hostile_runs)])
        with pytest.raises(SystemExit):
            main()
        return "".join(capsys.readouterr())

    return run


@pytest.mark.parametrize("command", ["list", "show link", "show broken", "show \x1b[31m", "scale"])
def test_the_terminal_is_not_steered(say, command):
    said = say(*command.split())
    assert said
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", said)


def test_json_keeps_what_was_stored(say):
    said = say("list", "--json")
    assert HOSTILE.replace("\udcff", "?") in {row["workload"] for row in json.loads(said)}
    assert said.isascii()


def test_brackets_are_no_markup_and_colours_are_richs_own():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, markup=False)
    console.print(Visible(Text("a\x1b[31m[bold]b", style="dim")))
    assert console.file.getvalue() == "\x1b[2ma�[31m[bold]b\x1b[0m\n"


def test_lines_and_other_alphabets_stay():
    assert visible("ä\t日本\nη 1.2 µJ ± 3 –") == "ä\t日本\nη 1.2 µJ ± 3 –"


@pytest.mark.parametrize("page", ["runs", "run", "scale"])
def test_the_dashboard_shows_it_as_text(hostile_runs, monkeypatch, page):
    pytest.importorskip("streamlit")
    from streamlit.testing.v1 import AppTest

    monkeypatch.setenv("JOULESCALE_RUNS_DIR", os.fspath(hostile_runs))
    app = AppTest.from_file(str(ROOT / "dashboard" / "app.py"), default_timeout=60).run()
    app.query_params["run"] = "\x1b[2J[link]b"
    app = app.switch_page(f"views/{page}.py").run()
    assert not app.exception, app.exception
    shown = [
        element.value
        for kind in ("title", "markdown", "caption", "info", "warning")
        for element in app.get(kind)
    ]
    assert shown
    assert any("evil" in text for text in shown) or page == "scale"
    assert [text for text in shown if re.search(r"(?<!\\)(\]\(|<img|!\[)", text)] == []


def test_no_page_lets_html_through():
    sources = [path.read_text() for path in (ROOT / "dashboard").rglob("*.py")]
    assert sources
    assert not any(
        "unsafe_allow_html" in text or "st.html" in text or "components.v1" in text for text in sources
    )
