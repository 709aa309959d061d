"""`sluice up`: everything on one machine, started, supervised and stopped together."""
