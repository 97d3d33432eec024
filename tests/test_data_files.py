"""The shipped digits, and the reading of data files: every unusable one ends in a sentence, status 2, no file."""

import zipfile
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from fastgrad.data import load_digits

pandas = pytest.importorskip("pandas")
pytest.importorskip("rich")
pytest.importorskip("safetensors")

from fastgrad.cli.data import read_features, read_training_table  # noqa: E402
from fastgrad.cli.main import main  # noqa: E402


@pytest.fixture(autouse=True)
def _in_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# The digits


def test_digits_are_the_uci_test_set():
    images, labels = load_digits()
    assert images.shape == (1797, 64)
    assert images.dtype == np.float32
    assert labels.shape == (1797,)
    assert labels.dtype == np.int64
    assert (images.min(), images.max()) == (0, 16)
    oracle = pytest.importorskip("sklearn.datasets").load_digits()
    np.testing.assert_array_equal(images, oracle.data)
    np.testing.assert_array_equal(labels, oracle.target)


def test_digits_are_fresh_arrays_and_a_small_file():
    images, labels = load_digits()
    images[:], labels[:] = -1, -1
    again, labels_again = load_digits()
    assert again.min() == 0
    assert labels_again.min() == 0
    file = files("fastgrad.data").joinpath("digits.npz")
    assert len(file.read_bytes()) < 60_000


def test_digits_state_source_and_licence():
    text = files("fastgrad.data").joinpath("README.md").read_text()
    for words in ("10.24432/C50P49", "CC BY 4.0", "Alpaydin", "Kaynak", "What was changed", "How the file was made"):
        assert words in text


def test_shipped_file_is_an_input_of_the_command_line():
    table = read_training_table(Path(str(files("fastgrad.data").joinpath("digits.npz"))), None)
    images, labels = load_digits()
    np.testing.assert_array_equal(table.features, images)
    np.testing.assert_array_equal(table.target, labels)


# Files that can be read

FRAME = {"a": [1.5, 2.5, -3.0, 4.0, 5.0, 6.0], "on": [True, False, True, True, False, True], "y": list("ppqqpq")}


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv", ".parquet"])
def test_formats_agree(suffix):
    path = Path(f"data{suffix}")
    frame = pandas.DataFrame(FRAME)
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    table = read_training_table(path, "y")
    assert table.columns == ["a", "on"]
    np.testing.assert_array_equal(table.features, np.array([FRAME["a"], FRAME["on"]], dtype=np.float64).T)
    assert table.target.tolist() == FRAME["y"]
    np.testing.assert_array_equal(read_features(path, ["on", "a"]), table.features[:, ::-1])


def test_npz_flattens_features_and_takes_a_named_target():
    x = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
    np.savez("data.npz", X=x, y=np.arange(6), price=np.linspace(0, 1, 6)[:, None])
    table = read_training_table(Path("data.npz"), None)
    assert table.columns == ["x0", "x1", "x2", "x3"]
    np.testing.assert_array_equal(table.features, x.reshape(6, 4))
    np.testing.assert_array_equal(table.target, np.arange(6))
    np.testing.assert_array_equal(read_training_table(Path("data.npz"), "price").target, np.linspace(0, 1, 6))


def test_csv_details(tmp_path):
    """A byte-order mark, spaces after commas, and a nameless first column as pandas writes its row numbers."""
    Path("data.csv").write_bytes("\ufeff, a, b, y\n0, 1, 2.5, no\n1, 3, 4, yes\n".encode())
    table = read_training_table(Path("data.csv"), "y")
    assert table.columns == ["a", "b"]
    assert table.target.tolist() == ["no", "yes"]
    assert "1 column without a name" in table.skipped[0]


def test_ignore_leaves_columns_out():
    pandas.DataFrame(FRAME).assign(name="text", gap=[None] * 6).to_csv("data.csv", index=False)
    assert read_training_table(Path("data.csv"), "y", ["name", "gap"]).columns == ["a", "on"]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([True, False], "b"),
        ([1, 2], "i"),
        ([0.5, 1.0], "f"),
        (["a", "b"], "O"),
        (pandas.Categorical(["lo", "hi"]), "O"),
        (pandas.array([1, 2], dtype="Int64"), "i"),
    ],
)
def test_target_kinds(values, kind):
    pytest.importorskip("pyarrow")
    pandas.DataFrame({"a": [1.0, 2.0], "y": values}).to_parquet("data.parquet")
    assert read_training_table(Path("data.parquet"), "y").target.dtype.kind == kind


# Files that cannot be used

GOOD = "a,b,y\n" + "".join(f"{i},{i * i},{'pq'[i % 2]}\n" for i in range(12))

BAD_TEXT = {
    "empty file": ("", "y", "data.csv is empty"),
    "blank lines": ("\n\n", "y", "data.csv is empty"),
    "header only": ("a,b,y\n", "y", "has no rows"),
    "wrong column": (GOOD, "yy", "no column 'yy'; did you mean 'y'?"),
    "no target": (GOOD, None, "--target is needed to say which column of data.csv to predict: 'a', 'b', 'y'"),
    "missing values": (GOOD + ",5,p\n,6,q\n1,1,\n", "y", "missing values in 'a' (2 of 15 rows), 'y' (1 of 15 rows)"),
    "text column": (
        GOOD.replace("3,9,", "?,9,"),
        "y",
        "text where numbers are needed: 'a' (1 of 12 rows, such as '?')",
    ),
    "two text columns": (GOOD.replace("3,9", "x,z"), "y", "'a' (1 of 12 rows, such as 'x'), 'b' (1 of 12 rows"),
    "remedy": (GOOD.replace("3,9,", "?,9,"), "y", "--ignore COLUMN"),
    "one class": (GOOD.replace("q", "p"), "y", "only one class, 'p'"),
    "one value": ("a,y\n" + "".join(f"{i},2.5\n" for i in range(9)), "y", "2.5 in every row"),
    "infinite": (GOOD.replace("3,9,", "inf,9,"), "y", "infinite values in the column 'a'"),
    "infinite target": ("a,y\n1,0.5\n2,inf\n3,1\n4,1\n5,1\n", "y", "infinite values in the target 'y'"),
    "repeated name": (GOOD.replace("a,b", "a,a"), "y", "more than one column named 'a'"),
    "semicolons": (GOOD.replace(",", ";"), "y", "separated by semicolons"),
    "long row": (GOOD + "1,2,p,9\n", "y", "Expected 3 fields in line 14, saw 4"),
    "long rows": ("a,b,y\n1,2,p,9\n1,2,q,9\n", "y", "more fields than its header has names"),
    "too few rows": ("a,y\n1,p\n2,q\n", "y", "only 2 rows"),
    "all classes different": ("a,y\n" + "".join(f"{i},n{i}\n" for i in range(12)), "y", "12 classes in 12 rows"),
    "constant features": ("a,y\n" + "".join(f"7,{'pq'[i % 2]}\n" for i in range(12)), "y", "every feature is constant"),
    "target only": ("y\n" + "p\nq\n" * 6, "y", "no column to learn from"),
}


def fails(capsys, *arguments: str) -> str:
    """Run a command that must fail: the sentence. Its exit status is 2, and the directory is as it was."""
    before = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"fastgrad {arguments[0]}: error: ")
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == before
    return error


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_csv(case, capsys):
    content, target, words = BAD_TEXT[case]
    Path("data.csv").write_text(content)
    assert words in fails(capsys, "fit", "data.csv", *(["--target", target] if target else []))


def test_the_same_csv_without_its_fault_trains():
    Path("data.csv").write_text(GOOD)
    assert main(["fit", "data.csv", "--target", "y", "--epochs", "1"]) == 0


X6, Y6 = np.arange(12.0).reshape(6, 2), np.arange(6) % 2
BAD_NPZ = {
    "no X": ({"Z": X6, "y": Y6}, "no array 'X'; it has 'Z', 'y'"),
    "no y": ({"X": X6}, "no array 'y'"),
    "lengths": ({"X": X6, "y": Y6[:5]}, "y in data.npz has shape (5,); X has 6 rows"),
    "one axis": ({"X": X6[:, 0], "y": Y6}, "it needs one row per example"),
    "empty": ({"X": X6[:0], "y": Y6[:0]}, "no rows"),
    "target named like a feature": ({"X": X6, "x1": Y6}, "already exists"),
    "objects": ({"X": X6.astype(object), "y": Y6}, "Python objects"),
    "nan": ({"X": np.where(X6 == 3, np.nan, X6), "y": Y6}, "missing values in 'x1' (1 of 6 rows)"),
    "text": ({"X": X6.astype(str), "y": np.array(["1", "2"] * 3)}, "text where numbers are needed: 'x0' (6 of 6 rows"),
    "complex": ({"X": X6 * 1j, "y": Y6}, "'x0'"),
}


@pytest.mark.parametrize("case", BAD_NPZ)
def test_bad_npz(case, capsys):
    arrays, words = BAD_NPZ[case]
    np.savez("data.npz", **arrays)
    target = ["--target", "x1"] if "x1" in arrays else []
    assert words in fails(capsys, "fit", "data.npz", *target)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("data.csv", bytes(range(256)), "not text in UTF-8"),
        ("data.npz", b"hello", "not an npz archive"),
        ("data.npz", b"", "is empty"),
        ("data.parquet", b"hello", "cannot read data.parquet"),
        ("data.xlsx", b"hello", "cannot tell the format of data.xlsx"),
    ],
)
def test_files_of_another_kind(name, content, words, capsys):
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    Path(name).write_bytes(content)
    assert words in fails(capsys, "fit", name, "--target", "y")


def test_truncated_npz(capsys):
    np.savez("whole.npz", X=X6, y=Y6)
    with zipfile.ZipFile("whole.npz") as whole, zipfile.ZipFile("data.npz", "w") as cut:
        cut.writestr("X.npy", whole.read("X.npy")[:-8])
        cut.writestr("y.npy", whole.read("y.npy"))
    error = fails(capsys, "fit", "data.npz")
    assert "cannot read data.npz" in error
    assert "objects" not in error


def test_no_file_and_a_directory(capsys):
    assert "there is no file data.csv" in fails(capsys, "fit", "data.csv", "--target", "y")
    Path("dir.csv").mkdir()
    assert "is a directory" in fails(capsys, "fit", "dir.csv", "--target", "y")


def test_parquet_without_pyarrow_says_what_to_install(capsys, monkeypatch):
    def read_parquet(path):
        raise ImportError("Unable to find a usable engine")

    monkeypatch.setattr(pandas, "read_parquet", read_parquet)
    Path("data.parquet").write_bytes(b"PAR1")
    assert "pip install pyarrow" in fails(capsys, "fit", "data.parquet", "--target", "y")
