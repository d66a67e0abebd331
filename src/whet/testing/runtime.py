"""What every runtime promises."""

from __future__ import annotations

import numpy as np

from whet.errors import RecipeError
from whet.models.model import Stored
from whet.runtimes.base import Deployment, Runtime, predict, runtime_for
from whet.types import Format, Signature


class RuntimeContract:
    """Subclass and give ``make_runtime`` and ``make_stored``."""

    def make_runtime(self) -> Runtime:
        """Return the runtime."""
        raise NotImplementedError("give make_runtime")

    def make_stored(self) -> tuple[Stored, Signature]:
        """Return an artifact it runs, on disk, and the signature."""
        raise NotImplementedError("give make_stored")

    def deployment(self) -> Deployment:
        """Return the deployment the contract is tested in."""
        return Deployment(self.make_runtime().name, threads=1)

    def test_outputs_fit_the_signature(self) -> None:
        """Names, types and numbers of samples are as the signature says."""
        stored, signature = self.make_stored()
        with self.make_runtime().open(stored, self.deployment()) as session:
            for count in (1, 5):
                outputs = session.run(signature.synthetic(count))
                assert list(outputs) == [spec.name for spec in signature.outputs]
                assert all(len(outputs[spec.name]) == count for spec in signature.outputs)

    def test_samples_do_not_touch_each_other(self) -> None:
        """A sample's answer does not depend on what else is in its batch."""
        stored, signature = self.make_stored()
        batch = signature.synthetic(6)
        singles = [{name: array[at : at + 1] for name, array in batch.items()} for at in range(6)]
        with self.make_runtime().open(stored, self.deployment()) as session:
            together, apart = predict(session, signature, [batch]), predict(session, signature, singles)
        for name, array in together.items():
            np.testing.assert_allclose(array, apart[name], rtol=1e-4, atol=1e-5)

    def test_it_says_what_it_used(self) -> None:
        """The session reports the runtime, its version and its threads."""
        stored, _ = self.make_stored()
        with self.make_runtime().open(stored, self.deployment()) as session:
            facts = dict(session.facts)
        assert facts["runtime"] == self.make_runtime().name
        assert facts["version"]
        assert facts["threads"] == 1
        assert facts.get("provider") or facts.get("device")

    def test_unknown_options_are_refused(self) -> None:
        """No option is ignored in silence."""
        stored, _ = self.make_stored()
        try:
            runtime_for(Deployment(self.make_runtime().name, {"no_such_option": 1}), stored.format)
        except RecipeError as error:
            assert "no_such_option" in str(error)  # noqa: PT017 - no pytest here
        else:
            raise AssertionError("an unknown option was accepted")

    def test_other_formats_are_refused(self) -> None:
        """A format it does not run is refused by name."""
        runtime = self.make_runtime()
        for other in set(Format) - set(runtime.formats):
            try:
                runtime_for(Deployment(runtime.name), other)
            except RecipeError as error:
                assert str(other) in str(error)  # noqa: PT017
            else:
                raise AssertionError(f"{runtime.name} accepts {other}")
