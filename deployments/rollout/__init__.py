"""`prefect.yaml`, and its deployments, automations and runs on a Prefect server."""
