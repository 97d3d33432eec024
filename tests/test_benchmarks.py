"""The benchmark suite measures what it says and refuses what is wrong. No test here looks at a clock."""

from __future__ import annotations

import doctest
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import host, instructions, plot, process, reference, report, roofline, workloads
from benchmarks.__main__ import main
from benchmarks.program import CHECK_STEPS, Case
from benchmarks.results import Cell, LibraryInfo, Results, Row, judge
from benchmarks.runner import LIBRARIES, Runner, Settings
from benchmarks.workloads import GROUPS, WORKLOADS, Floor, Workload, select

ROOT = Path(__file__).resolve().parent.parent
STEPS = [w for w in WORKLOADS if w.kind in ("linear", "two_layer") and w.measure == "time"]
OPERATIONS = ("add", "add_out", "copy", "sigmoid", "sum", "max", "softmax", "log_softmax")


def small() -> list[Workload]:
    """The timed workloads of a size for tests, each kind and its parameters once."""
    found: dict[tuple, Workload] = {}
    for w in WORKLOADS:
        if w.kind in OPERATIONS and w.params["n"] > 1000:
            w = replace(w, params={**w.params, "n": 1000})
        if w.measure == "time" and w.params.get("n", 0) <= 1024 and w.params.get("hidden", 0) <= 64:
            found.setdefault((w.kind, *sorted(w.params.items())), w)
    return [w for w in found.values() if w.params.get("rows", 0) <= 1000]


SMALL = small()

HEADER = """
import os
from benchmarks.lib_numpy import ABSENT, info, linear, setup
from benchmarks.program import Program
"""
WRONG = """
def wrong(case):
    right = linear(case)
    return Program(right.run, lambda w: [w * w.dtype.type(1.001)])
WORKLOADS = {"linear": {"liar": wrong}}
"""
CRASHING = """
def crashing(case):
    os._exit(3)
WORKLOADS = {"linear": {"crasher": crashing}}
"""


@pytest.fixture
def peer(tmp_path, monkeypatch):
    """Writes a library module that the workers can import; gives the value of --with for it."""

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}_programs.py").write_text(HEADER + text)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        return f"{name}={name}_programs"

    return write


def run(tmp_path: Path, *arguments: str) -> tuple[int, dict]:
    """Exit status and JSON of a quick run in which NumPy takes part."""
    out = tmp_path / "out.json"
    status = main(["--quick", "--libs", "numpy", "--json", str(out), *arguments])
    return status, json.loads(out.read_text())


def test_a_quick_run_records_machine_versions_and_every_round(tmp_path, capsys):
    status, data = run(tmp_path, "--only", "linear", "--only", "*/matmul-8", "--rounds", "2")
    assert status == 0
    assert [row["name"] for row in data["rows"]] == ["linear/step", "kernel/matmul-8"]
    assert data["libraries"]["numpy"]["info"]["version"] == np.__version__
    assert data["machine"]["cpu"]
    assert data["machine"]["cores"] >= 1
    assert data["settings"]["threads"] >= 1
    for row in data["rows"]:
        cell = row["cells"]["numpy"]
        assert cell["status"] == "ok"
        assert len(cell["rounds"]) == 2
        assert cell["value"] == min(cell["rounds"])
        assert cell["error"] <= 1
    printed = capsys.readouterr().out
    assert np.__version__ in printed
    assert "not decided" in printed  # floors are shown where fastgrad is not measured, and not called met


def test_a_missing_peer_is_named_and_the_others_run(tmp_path, capsys):
    status, data = run(tmp_path, "--with", "ghost=no_such_module_at_all", "--only", "linear", "--rounds", "1")
    assert status == 0
    assert "no_such_module_at_all" in data["libraries"]["ghost"]["missing"]
    assert data["rows"][0]["cells"]["numpy"]["status"] == "ok"
    assert "ghost: missing" in capsys.readouterr().out


def test_a_wrong_result_is_refused_and_not_timed(tmp_path, peer, capsys):
    status, data = run(tmp_path, "--with", peer("liar", WRONG), "--only", "linear", "--rounds", "1")
    assert status == 1
    cells = data["rows"][0]["cells"]
    assert cells["liar"]["status"] == "wrong"
    assert cells["liar"]["rounds"] == []
    assert cells["liar"]["value"] is None
    assert cells["numpy"]["status"] == "ok"
    assert "WRONG" in capsys.readouterr().out


def test_a_crash_is_reported_in_its_cell_alone(tmp_path, peer, capsys):
    status, data = run(
        tmp_path, "--with", peer("crasher", CRASHING), "--only", "linear", "--only", "kernel/mul-8", "--rounds", "1"
    )
    assert status == 0
    cells = data["rows"][0]["cells"]
    assert cells["crasher"]["status"] == "n/a"
    assert "exit status 3" in cells["crasher"]["reason"]
    assert cells["numpy"]["status"] == "ok"
    assert data["rows"][1]["cells"]["crasher"]["reason"] == "not written"
    assert "crasher: n/a" in capsys.readouterr().out


def test_a_floor_that_compares_two_workloads_times_both_in_turn(tmp_path):
    status, data = run(tmp_path, "--libs", "fastgrad", "--only", "graph/chain-20000-live", "--rounds", "2")
    assert status == 0
    row = data["rows"][0]
    assert len(row["cells"]["fastgrad"]["rounds"]) == len(row["baselines"]["graph/chain-20000"]["rounds"]) == 2
    assert row["floors"][0]["met"] is not None


def test_a_workload_has_its_own_dtype_and_threads(tmp_path):
    patterns = ["kernels/matmul-8-float64-1", "kernels/matmul-8-float32-1", "kernel/matmul-8"]
    status, data = run(tmp_path, *(x for p in patterns for x in ("--only", p)), "--rounds", "1", "--threads", "1",
                       "--dtype", "float64")  # fmt: skip
    assert status == 0
    assert {row["name"]: (row["dtype"], row["threads"]) for row in data["rows"]} == {
        "kernel/matmul-8": ("float64", 1),
        "kernels/matmul-8-float32-1": ("float32", 1),
        "kernels/matmul-8-float64-1": ("float64", 1),
    }
    assert all(row["cells"]["numpy"]["status"] == "ok" for row in data["rows"])  # dtypes are part of the check


def test_workers_of_another_thread_count_are_limited_and_ended():
    w = next(w for w in WORKLOADS if w.name == "kernels/matmul-8-float64-1")
    with Runner(Settings(threads=2, libraries={"numpy": LIBRARIES["numpy"]})) as runner:
        runner.results.machine["cores"] = 2
        other = runner._hosts_of(w)["numpy"]
        assert other is not runner.hosts["numpy"]
        assert (other.threads, other.dtype) == (1, "float64")
        assert runner._hosts_of(w)["numpy"] is other
        other.start()
        assert other.running
        assert runner._hosts_of(replace(w, threads=2, dtype="float32"))["numpy"] is runner.hosts["numpy"]
        assert runner._hosts_of(replace(w, dtype="float32"))["numpy"] is not other
        assert not other.running
        more = replace(w, threads=3)
        results = runner.run([more])
    assert results.rows[0].cells["fastgrad"].reason == "needs 3 cores"


def test_memory_is_measured_in_a_process_of_its_own(tmp_path):
    status, data = run(tmp_path, "--libs", "fastgrad,numpy", "--only", "memory")
    assert status == 0
    chain, step = (row["cells"] for row in data["rows"])
    assert 0 < chain["fastgrad"]["value"] < 10_000
    assert chain["numpy"]["reason"] == "no graph"
    parameters = 4 * 1024 * 1024 * 2  # two float32 matrices: no step can do with less
    assert min(step["fastgrad"]["value"], step["numpy"]["value"]) > parameters


def test_process_figures(tmp_path):
    status, data = run(tmp_path, "--only", "process/*", "--rounds", "1")
    assert status == 0
    values = {row["name"]: row["cells"]["numpy"]["value"] for row in data["rows"]}
    assert values["process/import"] > 0
    assert values["process/resident"] > 5e6
    assert values["process/installed"] > 5e6
    with pytest.raises(host.AskError, match="no_such_module"):
        process.probe("no_such_module", 1, 60)


def test_plot_and_markdown_from_saved_results(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    run(tmp_path, "--only", "linear", "--rounds", "1", "--plot", str(tmp_path / "a.svg"))
    assert "<svg" in (tmp_path / "a.svg").read_text()
    capsys.readouterr()
    saved = str(tmp_path / "out.json")
    assert main(["--load", saved, "--markdown", "--plot", str(tmp_path / "b.png")]) == 0
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")
    assert "| step |" in capsys.readouterr().out


@pytest.mark.parametrize("w", SMALL, ids=lambda w: w.name)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("library", ["fastgrad", "numpy", "torch", "autograd"])
def test_programs_agree_with_the_reference(library: str, dtype: str, w: Workload):
    if library not in ("fastgrad", "numpy"):
        pytest.importorskip(library)
    programs = importlib.import_module(f"benchmarks.lib_{library}")
    offered = programs.WORKLOADS.get(w.kind, {})
    assert offered or w.kind in programs.ABSENT
    params = {**w.params, "live": 10}
    for factory in offered.values():
        data = reference.make_data(w.kind, params, dtype)
        try:
            program = factory(Case(params, data))
        except NotImplementedError:
            assert library in ("numpy", "autograd")
            continue
        values = program.values(program.run(1 if program.ops > 1 else CHECK_STEPS))
        check = reference.compare(values, reference.expected(w.kind, params, data), dtype)
        assert check.ok, check.detail


@pytest.mark.parametrize("w", STEPS, ids=lambda w: w.name)
def test_a_gradient_that_is_wrong_by_one_percent_is_seen(w: Workload):
    data = reference.make_data(w.kind, w.params, "float32")
    want = reference.expected(w.kind, w.params, data)
    right = [e.want.astype(np.float32) for e in want]
    assert reference.compare(right, want, "float32").ok
    for i, e in enumerate(want):
        assert e.start is not None
        wrong = [*right]
        wrong[i] = (e.start + 1.01 * (e.want - e.start)).astype(np.float32)
        assert not reference.compare(wrong, want, "float32").ok


@pytest.mark.parametrize(
    "got",
    [[], [np.zeros((2, 2), np.float32)], [np.zeros(2)], [np.full(2, np.nan, np.float32)], [np.ones(2, np.float32)]],
    ids=["count", "shape", "dtype", "nan", "value"],
)
def test_what_is_wrong(got: list[np.ndarray]):
    assert not reference.compare(got, [reference.Expected(np.array([0.0, 1.0]))], "float32").ok


@pytest.mark.parametrize("module", [reference, workloads, roofline], ids=lambda m: m.__name__)
def test_examples(module):
    found = doctest.testmod(module)
    assert found.attempted > 0
    assert found.failed == 0


def row(**values: float) -> Row:
    return Row("r", "linear", "t", "ns", {}, {s.replace("_", " "): Cell(s, "ok", value=v) for s, v in values.items()})


@pytest.mark.parametrize(
    ("floor", "values", "met"),
    [
        (Floor("", over=("torch",), factor=50), {"fastgrad": 2.0, "torch": 100.0}, True),
        (Floor("", over=("torch",), factor=50), {"fastgrad": 2.1, "torch": 100.0}, False),
        (Floor("", over=("torch", "numpy")), {"fastgrad": 3.0, "torch": 4.0, "numpy": 2.0}, False),
        (Floor("", over=("torch", "numpy")), {"fastgrad": 3.0, "numpy": 4.0}, None),
        (Floor("", over=("torch", "numpy")), {"fastgrad": 5.0, "numpy": 4.0}, False),
        (Floor("", over=("numpy",), plus=40.0), {"fastgrad": 139.0, "numpy": 100.0}, True),
        (Floor("", limit=400), {"fastgrad": 401.0}, False),
        (Floor("", over=("torch",)), {"torch": 1.0}, None),
        (Floor("", row="other", factor=1 / 1.1), {"fastgrad": 10.9}, True),
        (Floor("", row="other", factor=1 / 1.1), {"fastgrad": 11.1}, False),
        (Floor("", row="not run"), {"fastgrad": 1.0}, None),
        (Floor("", over=("jax",), factor=20, series="fastgrad capture"), {"fastgrad_capture": 1.0, "jax": 20.0}, True),
        (Floor("", over=("jax",), factor=20, series="fastgrad capture"), {"fastgrad": 1.0, "jax": 99.0}, None),
        (Floor("", over=("jax",), series="fastgrad capture"),
         {"fastgrad": 1.0, "fastgrad_capture": 3.0, "jax": 2.0}, False),
    ],
)
def test_floors(floor: Floor, values: dict[str, float], met: bool | None):
    judged = row(**values)
    judged.baselines["other"] = Cell("fastgrad", "ok", value=10.0)
    assert judge(floor, judged).met is met


def test_a_floor_that_is_not_met_is_shown():
    results = Results("", {"cpu": "", "cores": 1, "architecture": "", "system": "", "python": "", "load": 0.0}, {
        "dtype": "float32", "threads": 1, "rounds": 1, "round_ms": 1.0, "quick": False,
    }, {"fastgrad": LibraryInfo(), "torch": LibraryInfo()})  # fmt: skip
    slow = row(fastgrad=2.0, torch=10.0)
    slow.floors = [judge(Floor("50x faster than torch", over=("torch",), factor=50), slow)]
    results.rows.append(slow)
    for text in (report.plain(results), report.markdown(results)):
        assert "50x faster than torch: 5.00x, NOT MET" in text
        assert "0 met, 1 not met" in text


def measured(group: str, *rows: Row) -> Results:
    """Results with these rows, of a machine that is made up."""
    machine = {"cpu": "cpu", "cores": 2, "architecture": "", "system": "", "python": "Python", "load": 0.0}
    settings = {"dtype": "float32", "threads": 2, "rounds": 1, "round_ms": 1.0, "quick": False}
    for r in rows:
        r.group = r.name.split("/")[0]
    assert all(r.group == group for r in rows)
    return Results("2026-01-01", machine, settings, {"fastgrad": LibraryInfo(), "torch": LibraryInfo()}, list(rows))


def operation(kind: str, size: str, params: dict[str, int], **ns: float) -> Row:
    cells = {s: Cell(s, "ok", value=v) for s, v in ns.items()}
    return Row(f"roofline/{kind}-{size}", "", f"{kind} {size}", "ns", params, cells, kind=kind, dtype="float32")


def test_a_roofline_is_what_was_measured(tmp_path):
    results = measured(
        "roofline",
        operation("copy", "100", {"n": 100}, fastgrad=40.0, numpy=80.0),
        operation("matmul", "64", {"n": 64}, fastgrad=10_000.0, torch=5000.0, numpy=8000.0),
        operation("softmax", "10", {"rows": 10, "n": 10}, fastgrad=100.0),
        operation("sum", "5", {"n": 5}),
    )
    peak, bandwidth = roofline.roofs(results)
    assert (peak.rate, peak.series) == (2 * 64**3 / 5000, "torch")
    assert (bandwidth.rate, bandwidth.series) == (800 / 40, "fastgrad")
    points = {(p.kind, p.who): p for p in roofline.points(results)}
    assert set(points) == {("matmul", "fastgrad"), ("matmul", roofline.BETTER), ("softmax", "fastgrad")}
    assert points["matmul", roofline.BETTER].rate == 2 * 64**3 / 5000
    assert points["matmul", "fastgrad"].intensity == 2 * 64**3 / (3 * 64 * 64 * 4)
    assert points["softmax", "fastgrad"].size == "10²"
    pytest.importorskip("matplotlib")
    roofline.write(results, tmp_path / "roof.svg")
    text = (tmp_path / "roof.svg").read_text()
    assert "105 GFLOP/s: torch, matmul 64" in text
    assert "20.0 GB/s: fastgrad, copy of 400 bytes" in text
    assert "rate in GFLOP/s" in text
    with pytest.raises(ValueError, match="roofline/copy"):
        roofline.roofs(measured("roofline", *results.rows[1:]))


def test_the_picture_by_batch(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    rows = [
        Row(f"batch/{b}", "", "", "ns", {"batch": b}, {"fastgrad": Cell("fastgrad", "ok", value=b * 1e3)})
        for b in (1, 8, 64)
    ]
    plot.write_batches(measured("batch", *rows), tmp_path / "batch.svg")
    text = (tmp_path / "batch.svg").read_text()
    assert "batch size" in text
    assert "time per step" in text
    measured("linear").save(tmp_path / "none.json")
    assert main(["--load", str(tmp_path / "none.json"), "--batch", str(tmp_path / "none.svg")]) == 0
    assert "No picture: no picture by batch" in capsys.readouterr().err


def test_a_picture_asks_for_its_workloads(capsys):
    assert main(["--list", "--roofline", "x.svg"]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert {line.split("/")[0] for line in listed if not line.startswith(" ")} == {"roofline"}
    assert not Path("x.svg").exists()


def test_kernels_are_compared_in_both_dtypes_on_one_and_two_threads():
    products = [w for w in WORKLOADS if w.name.startswith("kernels/matmul-")]
    assert Counter((w.dtype, w.threads) for w in products) == {
        (dtype, threads): 11 for dtype in ("float32", "float64") for threads in (1, 2)
    }
    assert all(w.floors and w.on_request for w in products)
    assert not any(w in products for w in select([]))
    assert all(w in select(["kernels/*"]) for w in products)


def test_the_table_of_workloads_is_sound():
    names = [w.name for w in WORKLOADS]
    assert len(set(names)) == len(names)
    assert {w.group for w in WORKLOADS} == set(GROUPS)
    assert {f.row for w in WORKLOADS for f in w.floors if f.row} <= set(names)
    assert [w.name for w in select(["matmul-102"])] == ["kernel/matmul-1024"]
    offered = {s for library in ("fastgrad", "numpy") for kinds in
               importlib.import_module(f"benchmarks.lib_{library}").WORKLOADS.values() for s in kinds}
    peers = {"torch", "torch nn", "jax jit", "autograd"}
    assert {s for w in WORKLOADS for f in w.floors for s in (*f.over, f.series)} <= offered | peers


def test_workers_do_not_inherit_debugging_switches(monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "PRESCOTT")
    env = host.environment(3)
    assert "OPENBLAS_CORETYPE" not in env
    assert env["OMP_NUM_THREADS"] == "3"


def test_the_command_line():
    command = [sys.executable, "-m", "benchmarks"]
    listed = subprocess.run([*command, "--list"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert all(w.name in listed for w in WORKLOADS)
    bad = subprocess.run([*command, "--only", "nothing-like-it"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert bad.returncode == 2
    assert "no workload matches" in bad.stderr


def test_instructions_of_a_step(monkeypatch, capsys):
    found = doctest.testmod(instructions)
    assert found.attempted > 1
    assert found.failed == 0
    stored = json.loads(instructions.STORED.read_text())["instructions"]
    assert {name.split(",")[0] for name in stored} == set(instructions.COUNTED)
    monkeypatch.setattr(instructions.shutil, "which", lambda name: None)
    assert main(["--instructions"]) == 1
    assert capsys.readouterr().err.splitlines() == [
        "No instructions counted: valgrind is not installed (Debian: apt install valgrind)."]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_instructions_are_the_same_twice(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(instructions, "STORED", tmp_path / "instructions.json")
    assert [main(["--instructions"]), main(["--instructions"])] == [0, 0]
    first, second = capsys.readouterr().out.split("Instructions per step\n")[1:]
    assert first.count("new") == len(first.splitlines())
    assert "from" not in second
