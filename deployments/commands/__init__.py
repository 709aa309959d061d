"""The commands of `sluice` other than `up`."""
