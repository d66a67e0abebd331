"""The worlds are a script as well; tests find them beside themselves."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
