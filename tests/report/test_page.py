"""What a report says: numbers of the results, nothing from elsewhere, the same bytes every time."""

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from curvlab.analysis import load_results
from curvlab.cli.main import main
from curvlab.core.errors import RunError
from curvlab.core.texts import with_radius
from curvlab.report import render_report
from curvlab.runs import Run


class Reader(HTMLParser):
    """Collects the headings, the cells of tables, and every address a page refers to."""

    def __init__(self, page: str):
        super().__init__()
        self.headings: list[int] = []
        self.rows: list[list[str]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self._cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        self.addresses += [str(v) for n, v in attrs if n in ("src", "href", "xlink:href")]
        if values.get("id"):
            self.ids.append(str(values["id"]))
        if tag == "tr":
            self.rows.append([])
        self._cell = tag in ("td", "th")
        if self._cell:
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._cell = self._cell and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.rows[-1][-1] += data


def test_numbers_are_those_of_the_results(page: str, analysed: Run) -> None:
    rows = {row[0]: row for row in Reader(page).rows}
    last = load_results(analysed).sel(step=40, probe_set="current")
    first = load_results(analysed).sel(step=0, probe_set="current")
    change = 100 * (float(last["accuracy"]) - float(first["accuracy"]))
    assert rows["accuracy"][1:] == [
        f"{float(first['accuracy']):.1%} (step 0)",
        f"{float(last['accuracy']):.1%} (step 40)",
        f"{change:+.1f} points",
    ]
    pair = last.sel(pair="largest-1")
    ends = [float(pair[f"hessian_eigenvalue{end}"]) for end in ("", "_low", "_high")]
    assert rows["largest eigenvalue, Hessian"][2] == f"{with_radius(*ends)} (step 40)"
    assert rows["largest 1"][1] == f"{ends[0]:.6g}"
    assert rows["network"][1] == "mlp (outputs = 4, widths = 16)"
    assert rows["task-001"][1] == analysed.probe_sets.hash("task-001")
    assert rows["40"][1] == analysed.checkpoint(40).digest
    assert rows["spectrum"][2:4] == ["3", f"{3 * (12 + 4 + 8 + 8):,}"]


def test_nothing_comes_from_elsewhere(page: str) -> None:
    reader = Reader(page)
    assert reader.addresses
    for address in reader.addresses:
        assert address.startswith(("#", "data:")), address
    for forbidden in ("<script", "@import", "url(http", "@font-face"):
        assert forbidden not in page.lower()
    assert len(reader.ids) == len(set(reader.ids))
    targets = {address[1:] for address in reader.addresses if address.startswith("#")}
    assert targets <= set(reader.ids)


def test_headings_are_in_order(page: str) -> None:
    levels = Reader(page).headings
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))


def test_names_from_the_disk_are_escaped(page: str) -> None:
    assert "&lt;default&gt; &amp; co/seed-0" in page
    assert "<default>" not in page


@pytest.mark.long
def test_damage_and_failures_are_said(copy: Run) -> None:
    victim = copy.path / "checkpoints" / f"{4:09d}" / "spec.json"
    victim.write_bytes(victim.read_bytes()[:-1])
    page = render_report(copy)
    assert "000000004/spec.json is truncated" in page
    assert "is as it was written" not in page


@pytest.mark.long
def test_the_command_writes_the_same_bytes_elsewhere(
    copy: Run, page: str, capsys: pytest.CaptureFixture[str]
) -> None:
    target = copy.path / "new" / "page.html"
    assert main(["report", str(copy.path), "--save", str(target)]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert target.read_text() == page
    assert main(["report", str(copy.path), "--probe-set", "other"]) == 2
    assert "there are results on current, next" in capsys.readouterr().err


def test_a_run_without_results_is_refused(built: Path) -> None:
    from curvlab.runs import open_run

    with pytest.raises(RunError, match="holds no results"):
        render_report(open_run(built))


def test_ranks_and_the_chance_of_overlooking_stand_beside_the_spectrum(page: str) -> None:
    rows = Reader(page).rows
    labels = {row[0] for row in rows}
    assert {"stable rank, tr A² / max λ²", "negative share of Σ|λ|"} <= labels
    (head,) = (row for row in rows if row[:2] == ["pair", "eigenvalue"])
    outermost = next(row for row in rows if row[0] == "largest 1")
    inner = next(row for row in rows if row[0] == "largest 2")
    assert 0 < float(outermost[head.index("miss")]) <= 1
    assert inner[head.index("miss")] == "-"


def test_what_the_check_found_stands_beside_the_spectrum(copy: Run) -> None:
    for file in copy.results():
        if file.diagnostic == "spectrum":
            found = copy.read_result(file.diagnostic, file.step, file.probe_set, file.key)
            assert found is not None
            found["hessian_nodes"].attrs["notes"] = "kinks & other <things>"
            copy.write_result(file.diagnostic, file.step, file.probe_set, file.key, found)
    assert "Note: kinks &amp; other &lt;things&gt;" in render_report(copy)
