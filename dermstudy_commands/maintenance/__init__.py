"""How the shipped weights were made, and the bench: commands for maintainers, `python -m dermstudy_commands.maintenance.NAME`."""
