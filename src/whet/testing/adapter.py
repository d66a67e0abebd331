"""What every adapter promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from whet.models.adapter import Adapter
from whet.models.model import Facts, Model


class AdapterContract:
    """Subclass and give ``make_adapter`` and ``make_model``."""

    def make_adapter(self) -> Adapter:
        """Return the adapter."""
        raise NotImplementedError("give make_adapter")

    def make_model(self) -> Model:
        """Return an opened model with a signature and at least one prunable weight."""
        raise NotImplementedError("give make_model")

    def test_forward_fits_the_signature(self) -> None:
        """Outputs have the names, types and shapes that the signature says, for any number of samples."""
        adapter, model = self.make_adapter(), self.make_model()
        assert model.signature is not None
        for count in (1, 3):
            outputs = adapter.forward(model, model.signature.synthetic(count))
            assert list(outputs) == [spec.name for spec in model.signature.outputs]
            for spec in model.signature.outputs:
                assert outputs[spec.name].dtype == spec.dtype
                assert len(outputs[spec.name]) == count

    def test_it_survives_the_disk(self, tmp_path: Path) -> None:
        """What was saved loads, from the files it names alone, and computes the same."""
        adapter, model = self.make_adapter(), self.make_model()
        assert model.signature is not None
        path = adapter.save(model, tmp_path / "model")
        assert all(file.is_file() for file in adapter.files(path))
        fresh = Facts.of(model).model(adapter.load(path, model.source), model.source)
        batch = model.signature.synthetic(3)
        wanted = adapter.forward(model, batch)
        for name, array in adapter.forward(fresh, batch).items():
            np.testing.assert_allclose(array, wanted[name], rtol=1e-6, atol=1e-6)

    def test_a_clone_is_another(self) -> None:
        """Changing a clone leaves the model alone."""
        adapter, model = self.make_adapter(), self.make_model()
        before = adapter.weights(model)
        changed = adapter.with_weights(
            adapter.clone(model), {name: np.zeros_like(array) for name, array in before.items()}
        )
        assert all(not array.any() for array in adapter.weights(changed).values())
        for name, array in adapter.weights(model).items():
            np.testing.assert_array_equal(array, before[name])

    def test_weights_go_out_and_in(self) -> None:
        """The very weights that were taken give the very same outputs."""
        adapter, model = self.make_adapter(), self.make_model()
        assert model.signature is not None
        again = adapter.with_weights(model, adapter.weights(model))
        batch = model.signature.synthetic(3)
        wanted = adapter.forward(model, batch)
        for name, array in adapter.forward(again, batch).items():
            np.testing.assert_array_equal(array, wanted[name])

    def test_layers_name_weights_that_exist(self) -> None:
        """Prunable weights are among the weights; names are unique; counts are not negative."""
        adapter, model = self.make_adapter(), self.make_model()
        layers, weights = adapter.layers(model), adapter.weights(model)
        assert len({layer.name for layer in layers}) == len(layers)
        named = [name for layer in layers for name in layer.weights]
        assert named
        assert set(named) <= set(weights)
        assert all(layer.parameters >= 0 and layer.bytes >= 0 for layer in layers)
        assert sum(layer.macs or 0 for layer in layers) > 0

    def test_zeros_are_seen_in_matrices(self) -> None:
        """What is set to zero counts as zero."""
        adapter, model = self.make_adapter(), self.make_model()
        names = [name for layer in adapter.layers(model) for name in layer.weights]
        zeros = {name: np.zeros_like(array) for name, array in adapter.weights(model).items() if name in names}
        assert not any(array.any() for array in adapter.matrices(adapter.with_weights(model, zeros)).values())
