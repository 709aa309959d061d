# The image of workers and of Prefect's server, for compose.yaml and for pools of containers: docs/machines.md.
FROM python:3.13-slim

# The same folder on all machines: runs start in the one that was deployed from.
WORKDIR /opt/sluice
RUN useradd --create-home sluice && chown sluice /opt/sluice
COPY --chown=sluice . .
RUN pip install --no-cache-dir --constraint constraints.txt --editable .
USER sluice
CMD ["python", "-m", "deployments.processes.worker", "--pool", "sluice"]
