"""``python -m whet``."""

from whet.cli.main import main

main()
