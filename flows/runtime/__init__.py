"""Inside a flow run: its parameters, its stop, its report, and what it exchanges with Prefect."""
