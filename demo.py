"""Show what a model sees, from a checkout; see projects/pentamask/tools/demo.py."""

from pentamask.tools.demo import cli

if __name__ == "__main__":
    cli()
