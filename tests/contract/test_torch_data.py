"""Data that torch gives: tensors, Datasets and factories that return them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from whet.data.data import Data, Part, split
from whet.data.samples import DatasetSamples, samples_of
from whet.data.sources import data_source
from whet.errors import DataError

X = torch.arange(120, dtype=torch.float32).reshape(20, 1, 2, 3)
Y = torch.arange(20) % 4


class Pictures(Dataset):
    """As torchvision makes them: ``targets``, and transforms that run when an item is fetched."""

    def __init__(self, count=20, transform=None, target_transform=None):
        self.data, self.targets = X[:count], Y[:count].tolist()
        self.transform, self.target_transform = transform, target_transform
        self.fetched = 0

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        self.fetched += 1
        picture, target = self.data[index], self.targets[index]
        picture = picture if self.transform is None else self.transform(picture)
        return picture, target if self.target_transform is None else self.target_transform(target)


class Named(Pictures):
    def __getitem__(self, index):
        return {"ids": torch.tensor([index]), "mask": torch.ones(3)}, self.targets[index]


class Unlabelled(Dataset):
    def __len__(self):
        return 20

    def __getitem__(self, index):
        return X[index]


@pytest.mark.parametrize(
    "part",
    [
        (X, Y),
        (X.clone().requires_grad_(), Y),
        (X.numpy(), Y),
        TensorDataset(X, Y),
        Subset(TensorDataset(X, Y), range(20)),
        Pictures(),
        ({"input": X}, Y),
    ],
)
def test_tensors_and_datasets_are_parts(part):
    samples = samples_of(part)
    assert len(samples) == 20
    rows = samples.rows([3, 1])["input"]
    assert isinstance(rows, np.ndarray)
    np.testing.assert_array_equal(rows, X[[3, 1]].numpy())
    np.testing.assert_array_equal(samples.labels(), Y.numpy())


@pytest.mark.parametrize("part", [X, (X, None), TensorDataset(X), Unlabelled()])
def test_labels_may_be_missing(part):
    samples = samples_of(part)
    np.testing.assert_array_equal(samples.rows([5])["input"], X[[5]].numpy())
    assert samples.labels() is None


def test_a_dict_of_named_inputs_is_stacked_by_name():
    rows = samples_of(Named()).rows([4, 2])
    assert rows["ids"].tolist() == [[4], [2]]
    assert rows["mask"].shape == (2, 3)


def test_targets_spare_the_reading_of_every_item():
    data = Pictures()
    assert samples_of(data).labels().tolist() == Y.tolist()
    assert data.fetched == 0


def test_targets_that_are_transformed_are_read_from_the_items():
    data = Pictures(target_transform=lambda target: 3 - target)
    assert samples_of(data).labels().tolist() == (3 - Y).tolist()


@pytest.mark.parametrize(
    ("part", "told"),
    [
        (TensorDataset(X, Y, Y), r"an item of a Dataset is x, \(x, y\) or {name: x}, this one has 3 elements"),
        ((Pictures(), Y), "a Pictures gives its own labels"),
    ],
)
def test_datasets_of_another_form_are_refused(part, told):
    with pytest.raises(DataError, match=told):
        samples_of(part).rows([0])


def test_a_dataset_that_can_only_be_iterated_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(X)

    with pytest.raises(
        DataError, match="Stream has no length or no items by number; splits need a map-style Dataset"
    ):
        samples_of(Stream())


def test_a_transform_that_raises_is_named_with_its_item():
    def crop(picture):
        raise RuntimeError("crop is larger than the picture")

    with pytest.raises(DataError, match="item 7 of the Pictures raised RuntimeError: crop is larger"):
        samples_of(Pictures(transform=crop)).rows([7])


def test_datasets_are_split_like_arrays():
    splits = split(Data(train=Pictures(), test=Pictures()))
    assert {part.value: splits.size(part) for part in Part} == {
        "train": 20,
        "calibrate": 20,
        "select": 10,
        "test": 10,
    }
    assert np.bincount(splits.labels(Part.SELECT)).tolist() == [3, 3, 2, 2]
    arrays = split(Data(train=(X, Y), test=(X, Y)))
    for part in Part:
        np.testing.assert_array_equal(
            splits.batch(part, range(5))["input"], arrays.batch(part, range(5))["input"], err_msg=part
        )


def test_random_augmentation_changes_no_fingerprint_and_the_fingerprint_no_dice():
    samples = DatasetSamples(Pictures(transform=lambda picture: picture + torch.rand(1)))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first = samples.fingerprint()
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    assert samples.fingerprint() == first
    assert DatasetSamples(Pictures()).fingerprint() != first


def test_an_array_and_a_tensor_of_the_same_numbers_have_one_fingerprint():
    assert samples_of((X, Y)).fingerprint() == samples_of((X.numpy(), Y.numpy())).fingerprint()


FACTORY = """
import torch
from torch.utils.data import TensorDataset

x, y = torch.arange(120.).reshape(40, 3), torch.arange(40) % 2

def both():
    return TensorDataset(x, y), TensorDataset(x, y)

def named():
    return {"test": TensorDataset(x, y), "task": "classification"}

def alone():
    return TensorDataset(x, y)
"""


@pytest.fixture
def factory(tmp_path):
    path = tmp_path / "datasets.py"
    path.write_text(FACTORY)
    return path


@pytest.mark.parametrize(("name", "sizes"), [("both", (40, 20, 20)), ("named", (0, 20, 10))])
def test_a_factory_may_return_datasets(factory, name, sizes):
    splits = data_source(f"{factory}:{name}").open()
    assert tuple(splits.size(part) for part in (Part.TRAIN, Part.SELECT, Part.TEST)) == sizes
    assert splits.batch(Part.TEST, [0])["input"].shape == (1, 3)


def test_a_factory_that_returns_one_dataset_is_told_what_is_needed(factory):
    with pytest.raises(
        DataError, match=r"data is \(train, test\), .* or whet.Data\(...\), this is a TensorDataset"
    ):
        data_source(f"{factory}:alone").open()


def test_a_factory_of_datasets_has_one_fingerprint_in_every_process(factory):
    code = "import sys; from whet.data.sources import data_source as d; print(d(sys.argv[1]).open().fingerprint())"
    name = f"{factory}:both"
    done = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == data_source(name).open().fingerprint()
