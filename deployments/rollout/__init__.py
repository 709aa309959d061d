"""`prefect.yaml` and what of it is on a Prefect server: deployments, automations and runs."""
