"""The inside of a flow run: options, parameters, stopping, watches, reports, and requests to Prefect."""
