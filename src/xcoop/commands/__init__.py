"""The sub-commands of `xcoop`."""
