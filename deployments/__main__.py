"""`python -m deployments` is `sluice`."""

from deployments.cli import main

main()
