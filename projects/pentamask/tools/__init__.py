"""Command line tools, each also `python -m pentamask.tools.<name>`."""
