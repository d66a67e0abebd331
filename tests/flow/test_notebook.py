"""A notebook: a model, data and a metric made in its cells, progress in one line, results that show themselves."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

pytestmark = pytest.mark.slow

CELLS = (
    """
import numpy as np
import torch
from torch import nn
import whet

class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(6, 64), nn.Linear(64, 3)

    def forward(self, row):
        return self.out(torch.relu(self.hidden(row)))

torch.manual_seed(0)
model = Small().eval()
""",
    """
rows = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
with torch.no_grad():
    labels = model(torch.from_numpy(rows)).argmax(1).numpy()

def hit_rate(outputs, labels):
    return float((outputs.argmax(axis=1) == labels).mean())

data = whet.Data(train=(rows[:100], None), test=(rows[100:], labels[100:]), task=hit_rate)
""",
    """
outcome = whet.optimize(
    model, data, "run", recipes=["dynamic-int8"], batch_sizes=[1],
    budget=whet.Budget(max_drop=0.2, min_speedup=0.01, max_bytes=100_000), robustness=False,
)
""",
    "outcome",
    "whet.verify('run/bundle', model)",
    "outcome.proof.verdicts[0]",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """What each cell showed."""
    folder = tmp_path_factory.mktemp("notebook")
    cells = [nbformat.v4.new_code_cell(source.strip()) for source in CELLS]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, folder / "notebook.ipynb")
    read = nbformat.read(folder / "notebook.ipynb", as_version=4)
    client = NotebookClient(read, timeout=500, resources={"metadata": {"path": os.fspath(folder)}})
    client.execute()
    return [cell.outputs for cell in read.cells]


def test_what_is_defined_in_cells_goes_through_optimize(outputs):
    (shown,) = outputs[3]
    assert shown["data"]["text/html"].startswith("<div><b style='color:#1b7f3b'>PASS</b> ")
    assert "hit_rate is worse by at most 0.2" in shown["data"]["text/html"]
    assert "<td style='text-align:left'>dynamic-int8</td>" in shown["data"]["text/html"]
    assert "<script" not in shown["data"]["text/html"]


def test_progress_is_one_line_of_plain_text(outputs):
    assert [output["output_type"] for output in outputs[2]] == ["display_data"]
    (line,) = outputs[2]
    assert set(line["data"]) == {"text/plain"}
    assert "\n" not in line["data"]["text/plain"]
    assert "\x1b" not in line["data"]["text/plain"]
    assert line["data"]["text/plain"].startswith("prove ")


def test_checks_and_verdicts_show_themselves(outputs):
    (checks,), (verdict,) = outputs[4], outputs[5]
    assert checks["data"]["text/html"].count("color:#1b7f3b") >= 5
    assert "FAIL" not in checks["data"]["text/html"]
    assert "<b style='color:#1b7f3b'>PASS</b>" in verdict["data"]["text/html"]
