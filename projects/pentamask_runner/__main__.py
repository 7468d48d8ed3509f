from .command_line import cli

cli()
