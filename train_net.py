"""Train or evaluate a model from a checkout; see projects/pentamask/tools/train_net.py."""

from pentamask.tools.train_net import cli

if __name__ == "__main__":
    cli()
