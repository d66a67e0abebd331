"""Data sets of Hugging Face ``datasets``: in memory, on disk, and of a hub that is out of reach."""

import numpy as np
import pytest

import whet
from whet.data.data import Part
from whet.data.sources import data_source
from whet.errors import DataError

datasets = pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def table():
    """Numbers with named classes: a train, a validation and an unlabelled test split."""
    rng = np.random.default_rng(0)
    features = datasets.Features(
        {
            "a": datasets.Value("float32"),
            "b": datasets.Value("int64"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )

    def part(count, labels):
        columns = {"a": rng.normal(size=count).tolist(), "b": list(range(count)), "label": labels}
        return datasets.Dataset.from_dict(columns, features=features)

    return datasets.DatasetDict(
        train=part(30, [0, 1] * 15), validation=part(40, [0, 1] * 20), test=part(20, [-1] * 20)
    )


def check(splits):
    assert splits.size(Part.TRAIN) == 30
    assert splits.size(Part.SELECT) + splits.size(Part.TEST) == 40
    assert splits.classes == ("no", "yes")
    batch = splits.batch(Part.TRAIN, range(30))["input"]
    assert batch.shape == (30, 2)
    assert batch[:, 1].tolist() == list(range(30))
    assert splits.labels(Part.TRAIN).tolist() == [0, 1] * 15
    assert "withheld" in splits.notes[0]


def test_a_dataset_dict_in_memory_is_a_table(table):
    check(whet.dataset(table))


def test_a_folder_that_was_saved_is_read_again(table, tmp_path):
    table.save_to_disk(str(tmp_path / "saved"))
    splits = whet.dataset(tmp_path / "saved")
    check(splits)
    assert splits.fingerprint() == whet.dataset(tmp_path / "saved").fingerprint()
    next((tmp_path / "saved" / "train").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="saved is no whole saved data set"):
        whet.dataset(tmp_path / "saved")


def test_a_single_dataset_is_all_there_is(table):
    splits = whet.dataset(whet.Data(test=table["validation"]))
    assert sum(splits.size(part) for part in Part) == 40
    assert whet.dataset(table["validation"], label="b").labels(Part.TEST).dtype == np.int64
    with pytest.raises(DataError, match="no column 'labels' for the labels; did you mean 'label'"):
        whet.dataset(table["validation"], label="labels")


def test_pictures_and_arrays_are_read_as_they_are_needed():
    from PIL import Image

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (40, 6, 5, 3), dtype=np.uint8)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    made = datasets.Dataset.from_dict(
        {"image": [Image.fromarray(one) for one in pixels], "label": [0, 1] * 20}, features=features
    )
    splits = whet.dataset(whet.Data(train=made, test=made), preprocess="scale=1/255; layout=CHW")
    taken = splits.parts[Part.TEST].indices
    np.testing.assert_allclose(
        splits.batch(Part.TEST, range(5))["image"], pixels[taken[:5]].transpose(0, 3, 1, 2) / np.float32(255)
    )
    assert splits.classes == ("cat", "dog")
    assert len(splits.fingerprint()) == 24
    other = datasets.Dataset.from_dict({"x": rng.normal(size=(40, 3)).tolist(), "y": list(range(40))})
    assert whet.dataset(other).batch(Part.TEST, range(5))["x"].shape == (5, 3)


def test_pictures_of_other_modes_are_told_by_row_and_none_is_turned_white(tmp_path):
    from PIL import Image

    from whet.data.modes import Look, told
    from whet.data.samples import looks

    colour = Image.new("RGB", (6, 5), (200, 40, 40))
    given = [colour, colour.convert("CMYK"), colour.convert("L"), Image.new("I;16", (6, 5), 60000)]
    made = datasets.Dataset.from_dict(
        {"image": given, "label": [0, 1, 0, 1]}, features=datasets.Features(
            {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
        ),
    )  # fmt: skip
    samples = data_source(whet.Data(test=made)).open().parts[Part.TEST].base.base
    found = looks([samples])
    assert found[1:] == [Look("row 1", "CMYK", "RGB"), Look("row 2", "L", "L")]
    assert told(found, "RGB") == ("2 of 3 pictures were converted to RGB (1 CMYK, 1 L): row 1 (CMYK), row 2 (L).",)
    np.testing.assert_allclose(samples.rows([1])["image"][0, 2, 3], (200, 40, 40), atol=3)
    assert samples.rows([2])["image"].shape == (1, 5, 6)
    with pytest.raises(DataError, match=r"the picture of row 3 cannot be used: .* more than 8 bits a channel"):
        samples.rows([0, 3])
    (tmp_path / "a.png").write_bytes(b"no picture")
    colour.convert("RGBA").save(tmp_path / "b.png")
    paths = [None, str(tmp_path / "a.png"), str(tmp_path / "b.png")]
    named = datasets.Dataset.from_dict({"image": paths}, features=datasets.Features({"image": datasets.Image()}))
    assert looks([type(samples)(named)]) == [Look("row 2", "RGBA", "RGB")]
    large = Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 300), np.uint8))
    for name in ("c.png", "d.tif", "e.webp", "f.jpg"):
        (large.convert("RGBA") if name == "e.webp" else large).save(tmp_path / name, quality=100, lossless=True)
        assert (tmp_path / name).stat().st_size > 1 << 16
    content = [{"bytes": path.read_bytes(), "path": None} for path in sorted(tmp_path.glob("[c-f].*"))]
    held = datasets.Dataset.from_dict({"image": content}, features=named.features)
    assert [each.stored for each in looks([type(samples)(held)])] == ["L", "L", "RGB", "L"]
    declared = made.cast_column("image", datasets.Image(mode="RGB"))
    assert looks([type(samples)(declared.select_columns(["image"]))]) == []


def test_a_local_folder_of_files_is_built(table, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    for name in ("train", "test"):
        table["train"].to_json(str(tmp_path / f"{name}.jsonl"))
    splits = data_source(f"hf:{tmp_path}").open()
    assert splits.size(Part.TRAIN) == 30


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch):
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"data set 'nobody/nothing' cannot be loaded \(.*save_to_disk") as told:
        whet.dataset("hf:nobody/nothing")
    assert "\n" not in str(told.value)
