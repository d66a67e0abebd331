"""Tables: CSV, TSV, parquet and frames, as columns of which inputs and labels are made."""

import time

import numpy as np
import pytest

import whet
from whet.data.columns import Column, TableInput
from whet.data.data import Part, split
from whet.data.preprocess import Postprocess, Preprocess, from_json, to_json
from whet.data.raw import read_table
from whet.data.sources import DataSource
from whet.data.tables import Reading, read_tables
from whet.errors import DataError, MissingDependency
from whet.types import TensorSpec

CSV = "age,city,plan,label\n30,Rome,a,yes\n,Oslo,b,no\n50,Rome,,yes\n40,Bern,a,no\n"


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return folder


def opened(path, **options):
    return whet.dataset(path, **options)


def everything(splits, part=Part.TEST):
    return splits.batch(part, range(splits.size(part)))


def reading(**settings):
    return Reading(preprocess=Preprocess(**settings))


@pytest.fixture
def people(tmp_path):
    """Train and test tables whose columns come in another order."""
    swapped = "label,city,age,plan\nno,Bern,20,b\nyes,Rome,,a\nyes,Oslo,60,\n"
    return write(tmp_path, train=CSV, test=swapped)


def test_numbers_and_categories_become_one_input_in_the_order_of_train(people):
    data = read_tables(sorted(people.iterdir()), reading(fill="median"))
    splits = split(data)
    # Oslo, Bern and Rome sort to Bern 0, Oslo 1, Rome 2; the median age of train is 40, its most frequent plan a.
    wanted = {(20.0, 0.0, 1.0), (40.0, 2.0, 0.0), (60.0, 1.0, 0.0)}
    found = np.concatenate([everything(splits, part)["input"] for part in (Part.SELECT, Part.TEST)])
    assert found.dtype == np.float32
    assert {tuple(row) for row in found.tolist()} == wanted
    assert data.classes == ("no", "yes")
    assert data.test.labels().tolist() == [0, 1, 1]
    assert data.train.labels().tolist() == [1, 0, 1, 0]
    assert "'label' was taken as the labels" in data.notes[0]
    age, city, plan = data.preprocess.table[0].columns
    assert (age.fill, city.vocabulary, plan.fill) == (40.0, ("Bern", "Oslo", "Rome"), 0.0)


def test_a_missing_value_is_told_with_its_column_its_row_and_the_cure(people):
    with pytest.raises(DataError, match=r"train: column 'age' has no value in row 2; .* 'fill=median'"):
        opened(people)


@pytest.mark.parametrize(
    ("train", "test", "told"),
    [
        ("a,y\n1,0\n2,1\n", "b,y\n1,0\n2,1\n", r"test has no column 'a'; it has b, y"),
        ("a,y\n1,0\n2,1\n", "a,z\n1,0\n2,1\n", r"train has no column 'z'|test has no column 'y'|no column"),
        ("a,y\n1,0\n2,1\n", "a,y\n", r"test is an empty table"),
        ("a,y\n1,0\n2,1\n", "", r"test.csv cannot be read as a table: it is empty"),
        ("a,y\n1,0\n2,1\n", "a,y\n1,0\nx,1\n", r"test: column 'a' holds numbers, but row 2 has 'x'"),
        ("a,y\n1,0\n2,1\n", "a,y\n1,0,5\n", r"row 1 has 3 cells, the first line 2"),
        (
            "a,y\n1,0\n2,1\n",
            "a,y\n1,0\n2,\n",
            r"test: the labels cannot be used: column 'y' has no value in row 2$",
        ),
        (
            "a,y\nu,0\nv,1\n",
            "a,y\nw,0\nu,1\n",
            r"column 'a' has 'w' in row 1, which is none of its 2 words \(u, v\)",
        ),
        ("a,y\n,0\n,1\n", "a,y\n1,0\n2,1\n", r"column 'a' has no values; leave it out with --preprocess 'drop=a'"),
        ("y\n0\n1\n", "y\n0\n1\n", r"the table has no columns but y"),
    ],
)
def test_tables_that_cannot_be_used_say_why(tmp_path, train, test, told):
    write(tmp_path, train=train, test=test)
    with pytest.raises(DataError, match=told):
        opened(tmp_path)


def test_labels_are_found_by_their_name_or_named(tmp_path):
    path = write(tmp_path, one="score,y,target\n" + "1,2,3\n" * 20) / "one.csv"
    assert opened(path).labels(Part.TEST)[0] == 2
    assert opened(path, label="score").labels(Part.TEST)[0] == 1
    both = opened(path, label="target, score")
    assert both.labels(Part.TEST)[0].tolist() == [3, 1]
    assert everything(both)["input"][0].tolist() == [2]
    assert opened(path, label="none").labels(Part.TEST) is None
    with pytest.raises(DataError, match=r"no column 'scores' for the labels; did you mean 'score'"):
        opened(path, label="scores")


def test_a_table_without_such_a_column_has_no_labels_and_says_so(tmp_path):
    path = write(tmp_path, one="a,b\n" + "1,2\n" * 20) / "one.csv"
    splits = opened(path)
    assert splits.labels(Part.TEST) is None
    assert "none of the columns a, b is called so; name one with --label" in splits.notes[0]


def test_a_table_without_a_header_has_its_labels_last(tmp_path):
    path = write(tmp_path, one="1,2,0\n" + "3,4,1\n" * 20) / "one.csv"
    splits = opened(path)
    assert splits.preprocess.columns == ("column_1", "column_2")
    assert set(splits.labels(Part.TEST).tolist()) <= {0, 1}
    assert "no header: its last column (column_3)" in splits.notes[0]


def test_whole_numbers_are_classes_and_others_are_not(tmp_path):
    path = write(tmp_path, one="a,y\n" + "1,2\n" * 20, two="a,y\n" + "1,2.5\n" * 20)
    assert opened(path / "one.csv").labels(Part.TEST).dtype == np.int64
    assert opened(path / "two.csv").labels(Part.TEST).dtype == np.float64


def test_a_text_or_date_is_no_category(tmp_path):
    lines = "\n".join(f"{at},2020-01-{at}" for at in range(1, 100))
    path = write(tmp_path, one=f"a,date\n{lines}\n") / "one.csv"
    with pytest.raises(DataError, match=r"'date' has 99 different words in 99 rows: .* 'drop=date'"):
        opened(path)
    assert opened(path, preprocess="drop=date").preprocess.columns == ("a",)
    with pytest.raises(DataError, match=r"no column 'dat' to drop; did you mean 'date'"):
        opened(path, preprocess="drop=dat")


def test_a_label_of_data_that_is_no_table_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((30, 2), np.float32), y=np.arange(30) % 2)
    with pytest.raises(DataError, match="label names a column of a table"):
        opened(tmp_path / "a.npz", label="y")


def test_parquet_gives_what_csv_gives(people, tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.csv
    import pyarrow.parquet

    other = tmp_path / "parquet"
    other.mkdir()
    for path in people.glob("*.csv"):
        pyarrow.parquet.write_table(pa.csv.read_csv(path), other / f"{path.stem}-00000-of-00001.parquet")
    first, second = (opened(folder, preprocess="fill=median") for folder in (people, other))
    assert second.preprocess.table == first.preprocess.table
    for part in Part:
        np.testing.assert_array_equal(everything(second, part)["input"], everything(first, part)["input"])
        np.testing.assert_array_equal(second.labels(part), first.labels(part))


def test_a_truncated_parquet_file_is_told(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"a": list(range(1000)), "y": [0, 1] * 500}), path)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"a.parquet cannot be read as a table"):
        opened(path)
    path.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"a.parquet cannot be read as a table"):
        opened(path)


def test_lists_in_parquet_are_inputs_of_their_own(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    vectors = np.arange(60.0).reshape(20, 3)
    pyarrow.parquet.write_table(pa.table({"v": vectors.tolist(), "y": [0, 1] * 10}), tmp_path / "a.parquet")
    splits = opened(tmp_path / "a.parquet")
    rows = np.concatenate([everything(splits, part)["v"] for part in (Part.SELECT, Part.CALIBRATE, Part.TEST)])
    np.testing.assert_array_equal(np.sort(rows[:, 0]), vectors[:, 0])
    pyarrow.parquet.write_table(pa.table({"v": [[1.0], [1.0, 2.0]], "y": [0, 1]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="lists in column 'v' are not numbers of one length"):
        opened(tmp_path / "a.parquet")


def test_a_frame_in_memory_is_a_table(people):
    pandas = pytest.importorskip("pandas")
    train, test = (pandas.read_csv(people / f"{part}.csv") for part in ("train", "test"))
    beside = whet.Data(
        train=(train.drop(columns="label"), train["label"]), test=(test.drop(columns="label"), test["label"])
    )
    from_files = opened(people, preprocess="fill=median")
    for data in ((train, test), beside):
        splits = whet.dataset(data, preprocess="fill=median")
        assert splits.preprocess.table == from_files.preprocess.table
        assert splits.classes == ("no", "yes")
        np.testing.assert_array_equal(splits.labels(Part.TEST), from_files.labels(Part.TEST))
    with pytest.raises(DataError, match="give all parts in one form"):
        whet.dataset((train, (np.zeros((3, 2)), None)))


def test_inputs_of_a_model_take_the_columns_they_are_named_after():
    columns = tuple(Column(name) for name in ("age", "size_x", "size_y", "pay"))
    columns += (Column("city", ("Bern", "Rome")),)
    rows = {"age": np.array([1.0, 2.0]), "size_x": np.array([3.0, 4.0]), "size_y": np.array([5.0, 6.0])}
    rows |= {"pay": ["7", "8"], "city": ["Rome", "Bern"], "unused": ["a", "b"]}
    whole = Preprocess(table=(TableInput("input", columns),))
    assert whole.inputs(rows)["input"].tolist() == [[1, 3, 5, 7, 1], [2, 4, 6, 8, 0]]
    specs = [
        TensorSpec("size", "float32", (None, 2)),
        TensorSpec("city", "int64", (None,)),
        TensorSpec("rest", "", ()),
    ]
    made = whole.fitted(specs).inputs(rows)
    assert made["size"].tolist() == [[3, 5], [4, 6]]
    assert (made["city"].tolist(), made["city"].dtype) == ([1, 0], np.int64)
    assert made["rest"].tolist() == [[1, 7], [2, 8]]
    sole = whole.fitted([TensorSpec("x", "float64", (None, 5))]).inputs(rows)
    assert list(sole) == ["x"]
    assert sole["x"].dtype == np.float64
    assert whole.fitted([]) == whole


def test_what_was_found_is_recorded_and_read_again(people):
    splits = opened(people, preprocess="fill=median; mean=1; std=2")
    text = to_json(splits.preprocess, Postprocess())
    assert from_json(text)[0] == splits.preprocess
    rows = splits.rows(Part.TEST, [0])
    np.testing.assert_array_equal(from_json(text)[0].inputs(rows)["input"], splits.batch(Part.TEST, [0])["input"])


@pytest.mark.parametrize(
    ("name", "text", "columns"),
    [
        ("a.csv", 'a;b\n"x;1";2\n', {"a": ["x;1"], "b": ["2"]}),
        ("a.csv", '\ufeffa,b\r\n"two\nlines",2\r\n\r\n', {"a": ["two\nlines"], "b": ["2"]}),
        ("a.csv", "1,2\n3,4\n", {"column_1": ["1", "3"], "column_2": ["2", "4"]}),
        ("a.csv", "a,a\n1,2\n", {"column_1": ["a", "1"], "column_2": ["a", "2"]}),
        ("a.tsv", 'say "hi" \t0\n" stray\t1\n', {"column_1": ['say "hi" ', '" stray'], "column_2": ["0", "1"]}),
        ("a.txt", "one, two\n\nthree\n", {"column_1": ["one, two", "three"]}),
    ],
)
def test_files_of_text_are_read_as_they_were_meant(tmp_path, name, text, columns):
    (tmp_path / name).write_text(text, newline="")
    assert read_table(tmp_path / name)[0] == columns


def test_known_names_tell_whether_there_is_a_header(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("word,other\nx,y\n")
    assert read_table(path, ["word"]) == ({"word": ["x"], "other": ["y"]}, True)
    assert read_table(path, ["p", "q"]) == ({"p": ["word", "x"], "q": ["other", "y"]}, False)


@pytest.mark.parametrize(("content", "told"), [(b"", "empty"), (b"a\xff\n", "not UTF-8"), (b"a\x00,b\n1,2", "")])
def test_files_that_are_no_tables_say_why(tmp_path, content, told):
    (tmp_path / "a.csv").write_bytes(content)
    if told:
        with pytest.raises(ValueError, match=told):
            read_table(tmp_path / "a.csv")
    else:
        assert read_table(tmp_path / "a.csv")[0]


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_read_in_seconds(tmp_path):
    rng = np.random.default_rng(0)
    np.savetxt(
        tmp_path / "a.csv",
        rng.normal(size=(100_000, 5)),
        delimiter=",",
        fmt="%.6g",
        header="a,b,c,d,y",
        comments="",
    )
    start = time.perf_counter()
    assert opened(tmp_path / "a.csv").size(Part.SELECT) == 2000
    assert time.perf_counter() - start < 15


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow.parquet", None)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    with pytest.raises(MissingDependency, match=r"pip install 'whet\[table\]'"):
        opened(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("width", "told"),
    [(2, r"takes 2 columns, the table has 3 \(a, b, c\); leave out .* 'drop=NAME'"), (4, "give all that it was")],
)
def test_more_columns_than_the_model_takes_are_named_and_so_are_fewer(tmp_path, width, told):
    (tmp_path / "rows.csv").write_text("a,b,c\n" + "".join(f"{at},{at + 1},{at + 2}\n" for at in range(20)))
    splits = DataSource(str(tmp_path / "rows.csv")).open()
    with pytest.raises(DataError, match=told):
        splits.fitted([TensorSpec("row", "float32", (None, width))])
    assert splits.fitted([TensorSpec("row", "float32", (None, 3))]).batch("test", [0])["row"].shape == (1, 3)
    assert splits.fitted([TensorSpec("row", "float32", (None, None))]).batch("test", [0])["row"].shape == (1, 3)
