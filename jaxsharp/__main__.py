"""``python -m jaxsharp`` is the command ``jaxsharp``."""

from jaxsharp.cli import main

main()
