"""The command line end to end: what it prints, what it learns and from what, and the files it saves."""

import csv
import json
import os
import runpy
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastgrad as fg
from fastgrad import kernels, models
from fastgrad.data import load_digits

for library in ("pandas", "rich", "safetensors"):
    pytest.importorskip(library)

from safetensors.numpy import load_file  # noqa: E402

from fastgrad.cli import problem, store, train  # noqa: E402
from fastgrad.cli.data import Table  # noqa: E402
from fastgrad.cli.main import main  # noqa: E402

CLASSES = ["blue", "green", "red"]


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def write_csv(path, columns: dict) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def read_csv(path) -> dict[str, list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


@pytest.fixture
def colours():
    """Three separable clouds in colours.csv: columns in units far apart, one of them constant."""
    rng = np.random.default_rng(0)
    label = np.arange(150) % 3
    a = 1e6 + 1e3 * (label + 0.1 * rng.normal(size=150))
    b = 1e-6 * ((label == 1) + 0.1 * rng.normal(size=150))
    write_csv("colours.csv", {"a": a, "b": b, "same": [0.1] * 150, "colour": [CLASSES[i] for i in label]})


@pytest.fixture
def line():
    """price = 5e6 + 2e5 a - 1e5 b exactly, in line.csv."""
    rng = np.random.default_rng(1)
    a, b = rng.normal(10, 2, 200), rng.normal(-3, 0.5, 200)
    write_csv("line.csv", {"a": a, "b": b, "price": 5e6 + 2e5 * a - 1e5 * b})


def fit(*arguments) -> None:
    assert main(["fit", *map(str, arguments)]) == 0


# fit on the digits


def test_digits_without_arguments(capsys):
    fit()
    lines = capsys.readouterr().out.splitlines()
    rows = [line.split() for line in lines if line.split() and line.split()[0].isdigit()]
    assert [int(row[0]) for row in rows] == list(range(1, 26))
    result = next(line for line in lines if line.startswith("held-out accuracy"))
    accuracy = float(result.split()[2].rstrip("%"))
    assert accuracy >= 95
    assert accuracy == float(rows[-1][-1].rstrip("%"))
    assert any("359 rows chosen at random, never trained on; 1438 to train on" in line for line in lines)
    assert any("CC BY 4.0" in line for line in lines)
    assert lines[-2].split() == ["saved:", "model.safetensors"]
    assert "fastgrad predict model.safetensors" in lines[-1]
    # and the saved model is that good: the held-out accuracy again, from the file, and a plausible overall one
    images, labels = load_digits()
    np.savez("digits.npz", X=images.astype(np.uint8))
    assert main(["predict", "model.safetensors", "digits.npz"]) == 0
    right = np.array(read_csv("predictions.csv")["prediction"], dtype=int) == labels
    table = Table([str(i) for i in range(64)], np.c_[np.arange(1797.0), images[:, 1:]], "digit", labels, [])
    held_out = row_numbers(problem.prepare(table, "classification", 0.2, 0), "x_test")
    assert 100 * right[held_out].mean() == pytest.approx(accuracy, abs=0.006)
    assert right.mean() > 0.98


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_digits_with_other_seeds(seed, capsys):
    fit("--seed", seed, "--epochs", 12)
    result = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("held-out accuracy"))
    assert float(result.split()[2].rstrip("%")) >= 95


@pytest.mark.parametrize("forced", ["", "1"])  # some CI services ask for colour in a pipe: still no bar
def test_piped_output_is_plain_lines(forced):
    command = [sys.executable, "-m", "fastgrad", "fit", "--epochs", "2"]
    environment = {name: os.environ[name] for name in os.environ if name not in ("FORCE_COLOR", "TTY_COMPATIBLE")}
    environment |= {"FORCE_COLOR": forced} if forced else {}
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert result.stderr == ""
    assert forced or "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert "\u2501" not in result.stdout  # the bar
    assert max(map(len, result.stdout.splitlines())) > 80  # long lines are not broken


# What is learnt, and from what


def row_numbers(prepared: problem.Problem, part: str) -> np.ndarray:
    """Which rows of a table whose first feature is the row number went to ``part``."""
    column = getattr(prepared, part)[:, 0].astype(np.float64) * prepared.inputs.scale[0] + prepared.inputs.mean[0]
    return np.rint(column).astype(int)


def test_split_is_stratified_disjoint_and_drawn_by_the_seed():
    labels = np.repeat([0, 1, 2, 3], [100, 50, 10, 2])
    table = Table(["row"], np.arange(162.0)[:, None], "y", labels, [])
    prepared = problem.prepare(table, "classification", 0.2, 0)
    train_rows, test_rows = row_numbers(prepared, "x_train"), row_numbers(prepared, "x_test")
    assert sorted([*train_rows, *test_rows]) == list(range(162))
    assert np.bincount(labels[test_rows], minlength=4).tolist() == [20, 10, 2, 0]
    np.testing.assert_array_equal(labels[train_rows], prepared.y_train)
    np.testing.assert_array_equal(labels[test_rows], prepared.y_test)
    again = problem.prepare(table, "classification", 0.2, 0)
    np.testing.assert_array_equal(again.x_test, prepared.x_test)
    assert row_numbers(problem.prepare(table, "classification", 0.2, 1), "x_test").tolist() != test_rows.tolist()


def test_small_classes_still_leave_a_row_to_test():
    table = Table(["row"], np.arange(6.0)[:, None], "y", np.repeat([0, 1, 2], 2), [])
    prepared = problem.prepare(table, "classification", 0.2, 0)
    assert (len(prepared.x_train), len(prepared.x_test)) == (5, 1)


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_nothing_leaks_from_the_held_out_rows(task):
    rng = np.random.default_rng(2)
    features, target = np.c_[np.arange(60.0), rng.normal(size=(60, 2))], rng.integers(0, 3, 60)
    prepared = problem.prepare(Table(["row", "a", "b"], features, "y", target, []), task, 0.2, 0)
    rows = row_numbers(prepared, "x_test")
    features[rows, 1:] *= 1e6
    if task == "regression":
        target[rows] += 1000
    spoilt = problem.prepare(Table(["row", "a", "b"], features, "y", target, []), task, 0.2, 0)
    np.testing.assert_array_equal(spoilt.x_train, prepared.x_train)
    np.testing.assert_array_equal(spoilt.y_train, prepared.y_train)
    assert not np.array_equal(spoilt.x_test, prepared.x_test)


def test_training_rows_are_standardised_and_constant_columns_ignored():
    rng = np.random.default_rng(3)
    features = np.c_[
        1e200 * rng.normal(size=50), 1e9 + rng.normal(size=50), np.full(50, 0.1), 1e-200 * rng.normal(size=50)
    ]
    prepared = problem.prepare(Table(list("abcd"), features, "y", rng.normal(size=50), []), None, 0.2, 0)
    np.testing.assert_allclose(prepared.x_train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.x_train.std(axis=0), [1, 1, 0, 1], atol=1e-5)
    np.testing.assert_allclose(prepared.y_train.std(), 1, atol=1e-5)
    assert prepared.inputs.apply(np.array([[0, 0, 7.0, 0]]))[0, 2] == 0


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (np.array(["a", "b"] * 20, dtype=object), "classification"),
        (np.arange(40) % 2 == 0, "classification"),
        (np.arange(40) % 8, "classification"),
        (np.arange(40) % 9, "regression"),
        (np.arange(6) % 2, "classification"),
        (np.arange(400) % 20, "classification"),
        (np.arange(400) % 21, "regression"),
        (np.arange(40) % 2 * 1.0, "regression"),
    ],
)
def test_task_follows_from_the_target(target, task):
    assert problem.choose_task(target, None, "y")[0] == task
    if target.dtype.kind in "if":
        other = {"regression": "classification", "classification": "regression"}[task]
        assert problem.choose_task(target, other, "y")[0] == other


@pytest.mark.parametrize("model", ["linear", "two-layer"])
def test_classification(model, colours, capsys):
    fit("colours.csv", "--target", "colour", "--model", model)
    out = capsys.readouterr().out
    assert "classification of 'colour', 3 classes (the target is text)" in out
    assert "1 of the features never change" in out
    assert "always the commonest class: 33.33%" in out
    assert main(["predict", "model.safetensors", "colours.csv"]) == 0
    predicted, truth = read_csv("predictions.csv"), read_csv("colours.csv")["colour"]
    assert list(predicted) == ["prediction", *(f"probability_{name}" for name in CLASSES)]
    assert np.mean([p == t for p, t in zip(predicted["prediction"], truth, strict=True)]) > 0.97
    probabilities = np.array([predicted[f"probability_{name}"] for name in CLASSES], dtype=float).T
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    assert [CLASSES[i] for i in probabilities.argmax(axis=1)] == predicted["prediction"]


@pytest.mark.parametrize("model", ["linear", "two-layer"])
def test_regression_is_in_the_units_of_the_target(model, line, capsys):
    fit("line.csv", "--target", "price", "--model", model, "--epochs", 60)
    out = capsys.readouterr().out
    assert "regression of 'price', in the units of the file (the target is a real number)" in out
    assert main(["predict", "model.safetensors", "line.csv"]) == 0
    error = np.array(read_csv("predictions.csv")["prediction"], dtype=float) - np.array(
        read_csv("line.csv")["price"], float
    )
    rmse = float(out.split("RMSE ")[-1].split()[0])
    assert 0.2 < rmse / np.sqrt(np.mean(error**2)) < 5
    assert np.std(error) < 0.1 * 4.1e5


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_scores_against_scikit_learn(task):
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(4)
    target = rng.normal(50, 10, 80) if task == "regression" else rng.integers(0, 3, 80)
    prepared = problem.prepare(Table(["a", "b"], rng.normal(size=(80, 2)), "y", target, []), None, 0.2, 0)
    model = train.build_model(4, 2, prepared.outputs)
    outputs, scores = train.forward(model, prepared.x_test), train.evaluate(model, prepared)
    if prepared.target:
        truth, predicted = prepared.target.undo(prepared.y_test.astype(float)), prepared.target.undo(outputs)
        assert scores.rmse == pytest.approx(metrics.root_mean_squared_error(truth, predicted))
        assert scores.r2 == pytest.approx(metrics.r2_score(truth, predicted))
        assert train.baseline(prepared).r2 <= 0
    else:
        assert scores.accuracy == metrics.accuracy_score(prepared.y_test, outputs.argmax(axis=1))
        probabilities = np.exp(train.log_softmax(outputs))
        assert scores.loss == pytest.approx(metrics.log_loss(prepared.y_test, probabilities, labels=range(3)))


# The model file


def test_model_file_is_complete_and_loads_into_the_model(colours):
    """Weights and metadata alone, in NumPy, give what predict gives; and the tensors are the model's own state dict."""
    fit("colours.csv", "--target", "colour", "--hidden", 8)
    assert main(["predict", "model.safetensors", "colours.csv"]) == 0
    weights = load_file("model.safetensors")
    header = Path("model.safetensors").read_bytes()
    about = json.loads(json.loads(header[8 : 8 + int.from_bytes(header[:8], "little")])["__metadata__"]["fastgrad"])
    assert (about["classes"], about["columns"], about["hidden"]) == (CLASSES, ["a", "b", "same"], 8)
    table = read_csv("colours.csv")
    x = np.array([table[name] for name in about["columns"]], dtype=float).T - about["inputs"]["mean"]
    scale = np.array(about["inputs"]["scale"])
    x = np.where(scale > 0, x / np.where(scale > 0, scale, 1), 0)
    hidden = 1 / (1 + np.exp(-(x @ weights["fc1.weight"].T + weights["fc1.bias"])))
    logits = hidden @ weights["fc2.weight"].T + weights["fc2.bias"]
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    predicted = read_csv("predictions.csv")
    found = np.array([predicted[f"probability_{name}"] for name in CLASSES], dtype=float).T
    np.testing.assert_allclose(found, expected, atol=1e-4)
    net = models.TwoLayerNet(3, 8, 3)
    net.load_state_dict({name: fg.tensor(array) for name, array in weights.items()})
    np.testing.assert_array_equal(net.state_dict()["fc1.weight"].numpy(), weights["fc1.weight"])


def test_seed_decides_the_file(colours):
    for name, seed in (("one", 5), ("same", 5), ("other", 6)):
        fit("colours.csv", "--target", "colour", "--seed", seed, "--epochs", 3, "--out", f"{name}.safetensors")
    one, same, other = (load_file(f"{name}.safetensors") for name in ("one", "same", "other"))
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["fc1.weight"], other["fc1.weight"])


def test_predict_finds_columns_by_name(colours, capsys):
    fit("colours.csv", "--target", "colour", "--epochs", 3)
    assert main(["predict", "model.safetensors", "colours.csv", "--out", "all.csv"]) == 0
    table = read_csv("colours.csv")
    write_csv("shuffled.csv", {"extra": ["text"] * 150, "same": table["same"], "b": table["b"], "a": table["a"]})
    assert main(["predict", "model.safetensors", "shuffled.csv", "--out", "shuffled_out.csv"]) == 0
    assert Path("all.csv").read_bytes() == Path("shuffled_out.csv").read_bytes()
    capsys.readouterr()
    assert main(["predict", "model.safetensors", "shuffled.csv", "--out", "-"]) == 0
    assert capsys.readouterr().out == Path("all.csv").read_text()
    np.savez("named.npz", X=np.array([table[name] for name in ("a", "b", "same")], dtype=float).T)
    assert main(["predict", "model.safetensors", "named.npz", "--out", "npz.csv"]) == 0
    assert Path("npz.csv").read_bytes() == Path("all.csv").read_bytes()


def test_names_beyond_the_terminals_encoding():
    """Messages are escaped, predictions are UTF-8."""
    write_csv("u.csv", {"a": range(8), "größe": ["klein", "groß"] * 4})

    def run(*arguments: str) -> bytes:
        command = [sys.executable, "-m", "fastgrad", *arguments]
        return subprocess.run(
            command, stdout=subprocess.PIPE, check=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}
        ).stdout

    assert b"gr\\xf6\\xdfe" in run("fit", "u.csv", "--target", "größe", "--epochs", "1")
    assert "probability_groß" in run("predict", "model.safetensors", "u.csv", "--out", "-").decode()


def test_existing_output_is_replaced_and_keeps_its_permissions(colours):
    Path("model.safetensors").write_text("old")
    os.chmod("model.safetensors", 0o640)
    fit("colours.csv", "--target", "colour", "--epochs", 1)
    store.load_model(Path("model.safetensors"))
    assert stat.S_IMODE(os.stat("model.safetensors").st_mode) == 0o640
    assert sorted(os.listdir()) == ["colours.csv", "model.safetensors"]


@pytest.mark.parametrize(("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
@pytest.mark.parametrize("data", ["colours", "line"])
def test_plot(suffix, magic, data, colours, line):
    pytest.importorskip("matplotlib")
    fit(f"{data}.csv", "--target", {"colours": "colour", "line": "price"}[data], "--epochs", 2, "--plot", f"p.{suffix}")
    assert Path(f"p.{suffix}").read_bytes().startswith(magic)


# info and version


def test_info_and_version(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for words in (fg.__version__, str(kernels.isa()), f"threads          {fg.get_num_threads()}"):
        assert words in out
    with pytest.raises(SystemExit) as exit:
        main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"fastgrad {fg.__version__}\n"


def test_python_m_is_the_console_script(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["fastgrad", "info"])
    with pytest.raises(SystemExit) as exit:
        runpy.run_module("fastgrad", run_name="__main__")
    assert exit.value.code == 0
    assert "instruction set" in capsys.readouterr().out
